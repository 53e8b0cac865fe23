// A real failover under load, behind a proxy and by name: two PostgreSQL servers, of which one follows the other. The tenants'
// server and the registry fail over together. Each subject has only one of them on that server.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { startServiceIn, type TestService, type TestTenant } from '../support/app.js';
import { clusterOn, prepareCluster, type TestCluster } from '../support/cluster.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { createRegistryIn } from '../support/service.js';
import { eventually } from '../support/service-process.js';
import {
  STANDBY_SUPERUSER,
  startServerPair,
  type ReplicatedServer,
  type ServerPair,
} from '../support/standby-server.js';
import { rowOf } from '../support/tenants.js';

/** Maximum time (ms) from the promotion until writes work again, without the margin for the machine. */
const PROMISED = 1_000;

/** The margin for the machine (ms): max(`least`, `slowest` × the duration of the slowest write before the fault). */
const MACHINE = { least: 1_500, slowest: 4 };

/** The name of the pair's server. Only the service's own resolver knows it. */
const NAME = 'database.pair.test';

/** Deadline (ms) of a statement. */
const STATEMENT_TIMEOUT = 1_000;

const CASES = [
  { what: "the tenants' server behind a proxy", part: 'tenants', way: 'proxy' },
  { what: "the tenants' server by name", part: 'tenants', way: 'name' },
  { what: 'the registry behind a proxy', part: 'registry', way: 'proxy' },
  { what: 'the registry by name', part: 'registry', way: 'name' },
] as const;
type Case = (typeof CASES)[number];
const BY_NAME = CASES.filter(({ way }) => way === 'name');
const TENANTS = CASES.filter(({ part }) => part === 'tenants');

/** One request and its answer. */
interface Sent {
  readonly kind: 'write' | 'read' | 'ready';
  readonly begun: number;
  readonly ended: number;
  readonly status: number;
  /** The product of a write to the tenant, or the number in a tenant's name that the write changed. */
  readonly written: string | number;
}

interface Subject extends Pick<Case, 'what' | 'part'> {
  readonly service: TestService;
  readonly tenant: TestTenant;
  readonly productId: string;
  /** The tenant that is renamed: a changed row is not served from memory. */
  readonly renamed: TestTenant;
}

/** The course of a failover, for each subject. */
interface Failover {
  /** When the former primary was gone, when the promotion began, and when the new primary took writes. */
  readonly gone: number;
  readonly promoting: number;
  readonly promoted: number;
  readonly primary: ReplicatedServer;
  readonly sent: ReadonlyMap<string, readonly Sent[]>;
}

let pair: ServerPair;
let proxy: Proxy;
/** The address that NAME resolves to. */
let address: string;
const subjects: Subject[] = [];
let names = 0;

function pointTo({ host, port }: ReplicatedServer): void {
  proxy.target = { host, port };
  address = host;
}

beforeAll(async () => {
  const on = (host: string, port: number): TestCluster => {
    const { user, password } = STANDBY_SUPERUSER;
    return clusterOn({ host, port, superuser: user, superuserPassword: password, logFile: undefined });
  };
  pair = await startServerPair(({ host, port }) => prepareCluster(on(host, port)));
  proxy = await startProxy(pair.one);
  pointTo(pair.one);
  const elsewhere = inject('cluster');
  for (const each of CASES) {
    const there = each.way === 'proxy' ? on(proxy.host, proxy.port) : on(NAME, pair.one.port);
    const options = {
      overrides: { resolve: async () => [address] },
      env: { POOL_STATEMENT_TIMEOUT_MS: String(STATEMENT_TIMEOUT) },
    };
    const service = await (each.part === 'tenants'
      ? startServiceIn({ ...elsewhere, provisioner: there.provisioner }, options)
      : startServiceIn(
          { ...elsewhere, superuser: there.superuser },
          { ...options, registry: await createRegistryIn(on(pair.one.host, pair.one.port)) },
        ));
    const tenant = await service.createTenant();
    const product = await service.send<{ id: string }>('POST', '/products', {
      token: tenant.adminToken,
      body: { name: 'Read', price: '1.00', stockQuantity: 1 },
    });
    const renamed = each.part === 'registry' ? await service.createTenant() : tenant;
    subjects.push({ ...each, service, tenant, renamed, productId: product.body.id });
  }
});

afterAll(async () => {
  try {
    await Promise.all(subjects.map(({ service }) => service.close()));
    await proxy.close();
  } finally {
    await pair.stop();
  }
});

function subjectOf({ what }: Pick<Case, 'what'>): Subject {
  const found = subjects.find((subject) => subject.what === what);
  if (!found) throw new Error(`no service was started for ${what}`);
  return found;
}

async function send(subject: Subject, kind: Sent['kind']): Promise<Sent> {
  const { service, tenant, renamed, productId, part } = subject;
  const begun = performance.now();
  let status: number;
  let written: string | number = '';
  if (kind === 'ready') ({ status } = await service.send('GET', '/health/ready'));
  else if (kind === 'read')
    ({ status } = await service.send('GET', `/products/${productId}`, { token: tenant.adminToken }));
  else if (part === 'tenants') {
    const answer = await service.send<{ id: string }>('POST', '/products', {
      token: tenant.adminToken,
      body: { name: 'Written', price: '1.00', stockQuantity: 1 },
    });
    ({ status } = answer);
    written = answer.body.id;
  } else {
    written = names += 1;
    const body = { name: `Name ${written}` };
    ({ status } = await service.send('PATCH', `/tenants/${renamed.id}`, { token: service.operatorToken, body }));
  }
  return { kind, begun, ended: performance.now(), status, written };
}

interface Load {
  readonly sent: ReadonlyMap<string, readonly Sent[]>;
  readonly stop: () => Promise<void>;
}

/** Runs a few clients of each subject until they are stopped. */
function load(): Load {
  let running = true;
  const sent = new Map<string, Sent[]>(subjects.map(({ what }) => [what, []]));
  const clients = subjects.flatMap((subject) =>
    (['write', 'read', 'ready'] as const).map(async (kind) => {
      while (running) {
        sent.get(subject.what)?.push(await send(subject, kind));
        await sleep(kind === 'ready' ? 50 : 15);
      }
    }),
  );
  return {
    sent,
    stop: async () => {
      running = false;
      await Promise.all(clients);
    },
  };
}

/**
 * @param change stops the former primary, and directs clients to the next one. Returns when the former was gone, and the next
 * primary
 */
async function failOver(change: () => Promise<{ gone: number; primary: ReplicatedServer }>): Promise<Failover> {
  const { sent, stop } = load();
  const everySubject = (what: string, has: (each: readonly Sent[]) => boolean): Promise<void> =>
    eventually(what, () => [...sent.values()].every(has));
  try {
    await everySubject('all is well', (each) => written(each).length > 5);
    const { gone, primary } = await change();
    // The service connects to the standby before its promotion.
    await sleep(300);
    await everySubject('the failure is seen', (each) =>
      (['write', 'read', 'ready'] as const).every((kind) => each.some((one) => one.kind === kind && one.begun > gone)),
    );
    const promoting = performance.now();
    await primary.promote();
    const promoted = performance.now();
    await everySubject('writes work', (each) => firstWrite({ gone, promoted }, each) !== undefined);
    await sleep(PROMISED + 500);
    return { gone, promoting, promoted, primary, sent };
  } finally {
    await stop();
  }
}

/** The first write that the new primary acknowledged. */
function firstWrite({ gone, promoted }: Pick<Failover, 'gone' | 'promoted'>, sent: readonly Sent[]): Sent | undefined {
  return written(sent).find(({ begun, ended }) => begun > gone && ended > promoted);
}

function written(sent: readonly Sent[]): Sent[] {
  return sent.filter(({ kind, status }) => kind === 'write' && status < 300);
}

/** Acknowledged writes that are missing on the server. */
async function lost(subject: Subject, primary: ReplicatedServer, sent: readonly Sent[]): Promise<(string | number)[]> {
  const { service, tenant, renamed, part } = subject;
  const acknowledged = written(sent);
  if (part === 'tenants') {
    const { dbName } = await rowOf(service, tenant);
    const { rows } = await primary.asSuperuser(dbName, (db) =>
      sql<{ id: string }>`select id from products`.execute(db),
    );
    const there = new Set(rows.map(({ id }) => id));
    return acknowledged.filter((each) => !there.has(String(each.written))).map((each) => each.written);
  }
  const { database } = service.config.registry.connection;
  const { rows } = await primary.asSuperuser(database, (db) =>
    sql<{ name: string }>`select name from tenants where id = ${renamed.id}`.execute(db),
  );
  // Each name replaces the previous one. An acknowledged write is lost if it began after the answer to the stored one.
  const there = sent.find((each) => `Name ${each.written}` === rows[0]?.name);
  return acknowledged.filter(({ begun }) => begun > (there?.ended ?? -Infinity)).map((each) => each.written);
}

function promises(failover: () => Failover): void {
  const sentFor = (each: Case): readonly Sent[] => failover().sent.get(each.what) ?? [];

  it.each(CASES)('accepts writes within a second of the promotion: $what', (each) => {
    const { promoted, gone } = failover();
    const first = firstWrite(failover(), sentFor(each))?.ended ?? Infinity;
    const before = written(sentFor(each)).filter(({ ended }) => ended < gone);
    const slowest = Math.max(...before.map(({ begun, ended }) => ended - begun));
    expect(first).toBeLessThan(promoted + PROMISED + Math.max(MACHINE.least, MACHINE.slowest * slowest));
    const well = Math.max(first, promoted + PROMISED);
    const later = sentFor(each).filter(({ kind, begun }) => kind !== 'ready' && begun > well);
    expect(later.length).toBeGreaterThan(1);
    expect(later.filter(({ status }) => status >= 300)).toEqual([]);
  });

  it.each(CASES)('loses no acknowledged write: $what', async (each) => {
    const { primary } = failover();
    expect(written(sentFor(each)).length).toBeGreaterThan(5);
    expect(await lost(subjectOf(each), primary, sentFor(each))).toEqual([]);
  });

  it.each(CASES)('answers with success or 503 only: $what', (each) => {
    const others = sentFor(each).filter(({ status }) => status >= 300 && status !== 503);
    expect(others).toEqual([]);
  });

  it.each(TENANTS)('serves nothing from a standby: $what', (each) => {
    const { gone, promoting } = failover();
    const between = sentFor(each).filter(
      ({ kind, begun, ended }) => kind !== 'ready' && begun > gone && ended < promoting,
    );
    expect(between.length).toBeGreaterThan(0);
    expect(between.filter(({ status }) => status < 300)).toEqual([]);
  });

  it.each(CASES)('is ready only while operators can act: $what', (each) => {
    const { gone, promoting, promoted } = failover();
    const ready = sentFor(each).filter(({ kind }) => kind === 'ready');
    const between = ready.filter(({ begun, ended }) => begun > gone && ended < promoting);
    expect(between.length).toBeGreaterThan(0);
    const expected = each.part === 'registry' ? 503 : 200;
    expect(between.filter(({ status }) => status !== expected)).toEqual([]);
    const well = Math.max(promoted + PROMISED, firstWrite(failover(), sentFor(each))?.ended ?? 0);
    expect(ready.find(({ begun }) => begun > well)?.status).toBe(200);
  });

  it.each(CASES.filter(({ part }) => part === 'registry'))('serves known tenants meanwhile: $what', (each) => {
    const reads = sentFor(each).filter(({ kind }) => kind === 'read');
    expect(reads.filter(({ status }) => status !== 200)).toEqual([]);
  });
}

describe('a switchover, after which the former primary is a standby that can still be reached,', () => {
  let failover: Failover;
  beforeAll(async () => {
    failover = await failOver(async () => {
      const { one, other } = pair;
      await one.stop('fast');
      const gone = performance.now();
      await one.follow(other);
      await one.start();
      // Name and proxy lead there for a while.
      await sleep(500);
      pointTo(other);
      return { gone, primary: other };
    });
  });

  promises(() => failover);
});

describe('a lost synchronous standby', () => {
  const subject = (): Subject => subjectOf({ what: "the tenants' server by name" });
  let writes: readonly Sent[];
  let read: Sent;
  beforeAll(async () => {
    const { one, other } = pair;
    await other.waitForStandby(true);
    await one.stop('immediate');
    const waiting = [send(subject(), 'write'), send(subject(), 'write')];
    const { dbName } = await rowOf(subject().service, subject().tenant);
    await other.asSuperuser('postgres', (db) =>
      eventually('a COMMIT that waits for the standby is ended', async () => {
        const { rows } = await sql`
          select pg_cancel_backend(pid) from pg_stat_activity
          where datname = ${dbName} and wait_event = 'SyncRep' limit 1`.execute(db);
        return rows.length > 0;
      }),
    );
    read = await send(subject(), 'read');
    writes = await Promise.all(waiting);
    await one.start();
    await other.caughtUp();
  });

  it('does not stop reads while writes wait', () => {
    expect(read.status).toBe(200);
    expect(read.ended).toBeLessThan(Math.max(...writes.map(({ ended }) => ended)));
  });

  it('makes writes 503 by the deadline, even if the server says COMMIT because the wait was cancelled', () => {
    expect(writes.map(({ status }) => status)).toEqual([503, 503]);
    for (const { begun, ended } of writes) expect(ended - begun).toBeLessThan(STATEMENT_TIMEOUT + 2_000);
  });

  it('no longer stops writes when it is back', async () => {
    expect((await send(subject(), 'write')).status).toBe(201);
  });
});

describe('a crash of a primary whose COMMIT waits for the standby', () => {
  let failover: Failover;
  beforeAll(async () => {
    const { one, other } = pair;
    await other.waitForStandby(true);
    failover = await failOver(async () => {
      await other.stop('immediate');
      const gone = performance.now();
      pointTo(one);
      return { gone, primary: one };
    });
  });

  promises(() => failover);
});

describe('a name that moves while the former server still runs and accepts writes', () => {
  let moved: number;
  let sent: ReadonlyMap<string, readonly Sent[]>;
  beforeAll(async () => {
    await pair.copyToOther();
    for (const each of BY_NAME)
      await eventually('writes work', async () => (await send(subjectOf(each), 'write')).status < 300);
    const running = load();
    ({ sent } = running);
    await sleep(300);
    moved = performance.now();
    address = pair.other.host;
    const later = moved + PROMISED + 1_000;
    await eventually('more is written', () =>
      BY_NAME.every(({ what }) => written(sent.get(what) ?? []).some(({ begun }) => begun > later)),
    );
    await running.stop();
  });

  it.each(BY_NAME)('moves the writes to the new server: $what', async (each) => {
    const later = (sent.get(each.what) ?? []).filter(({ begun }) => begun > moved + PROMISED + 500);
    expect(written(later).length).toBeGreaterThan(0);
    expect(later.filter(({ status }) => status >= 300)).toEqual([]);
    expect(await lost(subjectOf(each), pair.other, later)).toEqual([]);
  });
});

// The registry goes back in time: a backup is restored, or a standby takes over that lacks the last transactions. The databases of
// tenants do not go back with it. Each act is recorded as a series of backups, one before each statement. Then the test restores
// every backup, and the service runs all its jobs. No acknowledged tenant may lose its database.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { describe, expect, inject, it, onTestFinished } from 'vitest';
import type { AppOverrides } from '../support/service.js';
import {
  ADMIN,
  connectAs,
  createRegistry,
  startService,
  startServiceIn,
  type Answer,
  type TestService,
} from '../support/app.js';
import {
  acknowledged,
  contentOf,
  createLegacyDatabase,
  invoicesIn,
  PRODUCT,
  signIn,
  stateOfDatabase,
  writeProduct,
  type Acknowledged,
} from '../support/evidence.js';
import { finishOperations } from '../support/operations.js';
import { putBack, takeBackup, type RegistryBackup } from '../support/registry-backup.js';
import { startStatementProxy, type StatementProxy, type Verdict } from '../support/statement-proxy.js';

const VICTIM = 'victim';

/** The automatic jobs, in the order in which they run here. */
const JOBS = ['reconciler', 'standby databases', 'lifecycle settle', 'lifecycle purge'];

const QUIET = { RECONCILE_EVERY_MS: '3600000', TENANT_DELETION_GRACE_MS: '86400000' };

interface World {
  readonly service: TestService;
  readonly neighbour: Acknowledged;
  /** A database for adoption. */
  readonly legacy: string;
}

interface Act {
  readonly promise: string;
  readonly prepare?: (world: World) => Promise<unknown>;
  /** The recorded act. */
  readonly act: (world: World) => Promise<unknown>;
  /** Standby databases of the cluster. */
  readonly standby?: number;
  readonly after: {
    /** The state of the tenant's database after the acknowledged act; an old row must not open a `closed` one. */
    readonly database: 'open' | 'closed' | 'gone';
    /** ms until a deleted tenant is purged, for the service on the old registry. */
    readonly grace: number;
  };
}

const make = ({ service }: Pick<World, 'service'>, slug: string, more: object = {}): Promise<Answer<{ id: string }>> =>
  service.send('POST', '/tenants', {
    token: service.operatorToken,
    body: { name: slug, slug, admin: ADMIN, ...more },
  });

async function makeVictim(world: World, more: object = {}): Promise<void> {
  const made = await make(world, VICTIM, more);
  expect(made.status, made.text).toBe(201);
}

async function makeVictimWithData(world: World): Promise<void> {
  await makeVictim(world);
  await writeProduct(world.service, VICTIM);
}

async function tell({ service }: World, method: 'POST' | 'DELETE', path: string): Promise<void> {
  const { id } = await acknowledged(service, VICTIM);
  const token = service.operatorToken;
  const answer = await service.send<{ operationId?: string }>(method, `/tenants/${id}${path}`, { token });
  const operationId = answer.status === 503 ? answer.body.operationId : undefined;
  if (operationId === undefined) {
    expect([200, 204], answer.text).toContain(answer.status);
    return;
  }
  // While many tests make and drop databases, DROP DATABASE may take longer than the answer waits. The service goes on.
  const state = async (): Promise<unknown> =>
    (await service.send<{ state: string }>('GET', `/operations/${operationId}`, { token })).body.state;
  await expect.poll(state, { timeout: 60_000, interval: 100 }).toBe('done');
}

async function adoptLegacy(world: World): Promise<void> {
  const { service, legacy } = world;
  const clusters = await service.send<{ data: { id: string }[] }>('GET', '/clusters', { token: service.operatorToken });
  await makeVictim(world, { adopt: { clusterId: clusters.body.data[0]?.id, database: legacy } });
}

const acts: readonly Act[] = [
  {
    promise: 'a tenant that was made from the template keeps its database',
    act: (world) => makeVictim(world),
    after: { database: 'open', grace: 0 },
  },
  {
    promise: 'a tenant that claimed a standby database keeps it',
    standby: 1,
    act: (world) => makeVictim(world),
    after: { database: 'open', grace: 0 },
  },
  {
    promise: 'a tenant that adopted a database keeps it, with the rows that it had before',
    act: adoptLegacy,
    after: { database: 'open', grace: 0 },
  },
  {
    promise: 'a tenant that was deleted keeps its database, and it stays closed',
    prepare: makeVictimWithData,
    act: (world) => tell(world, 'DELETE', ''),
    after: { database: 'closed', grace: 86_400_000 },
  },
  {
    promise: 'a tenant that was deleted and restored is not purged when the old row says that its time is over',
    prepare: makeVictimWithData,
    act: async (world) => {
      await tell(world, 'DELETE', '');
      await tell(world, 'POST', '/restore');
    },
    after: { database: 'open', grace: 0 },
  },
  {
    promise: 'a tenant that was purged does not come back, and its old row hinders no other tenant',
    prepare: makeVictimWithData,
    act: async (world) => {
      await tell(world, 'DELETE', '');
      await tell(world, 'POST', '/purge');
    },
    after: { database: 'gone', grace: 0 },
  },
];

describe('when the registry is restored to any moment of the act,', () => {
  it.each(acts)(
    '$promise',
    async ({ prepare, act, standby = 0, after }) => {
      const registry = await createRegistry();
      const central = connectAs<unknown>(registry);
      onTestFinished(() => central.close(0));
      const proxy = await startStatementProxy(inject('cluster').superuser);
      onTestFinished(() => proxy.close());
      const service = await startBehind(proxy, registry, { ...QUIET, STANDBY_DATABASES: String(standby) });
      const world = await settleIn(service);
      await prepare?.(world);
      const before = after.database === 'gone' ? await acknowledged(service, VICTIM) : undefined;

      const backups = new Set<RegistryBackup>();
      proxy.onStatement = async (): Promise<Verdict> => {
        backups.add(await takeBackup(central.db));
        return 'pass';
      };
      await act(world);
      proxy.onStatement = () => 'pass';
      backups.add(await takeBackup(central.db));
      // At least one backup before and one after.
      expect(backups.size).toBeGreaterThan(1);

      const victim = before ?? (await acknowledged(service, VICTIM));
      if (after.database === 'open') await writeProduct(service, VICTIM);
      await service.close();
      const safe = [world.neighbour, ...(after.database === 'gone' ? [] : [victim])];
      const harm: string[] = [];
      for (const [index, backup] of [...backups].entries()) {
        await putBack(central.db, backup);
        const of = `backup ${index + 1} of ${backups.size} (${statusIn(backup, victim.id)})`;
        const made = await liveOn(registry, { grace: after.grace, standby, round: index, victim });
        safe.push(...made.acknowledged);
        harm.push(...made.harm.map((what) => `${of}: ${what}`));
        for (const tenant of safe) {
          const what = await harmTo(tenant, tenant === victim || tenant === world.neighbour);
          if (what !== undefined) harm.push(`${of}: the database of "${tenant.slug}" ${what}`);
        }
        const { exists, open } = await stateOfDatabase(victim.dbName);
        if (after.database === 'gone' && exists) harm.push(`${of}: a purged database is back`);
        if (after.database === 'closed' && open) harm.push(`${of}: the database of a deleted tenant was opened`);
      }
      if (act === adoptLegacy) expect(await invoicesIn(world.legacy)).toEqual([1, 2]);
      expect(harm).toEqual([]);
    },
    60_000,
  );
});

it('a standby database that was claimed after the backup goes to no other tenant, even if creating that tenant fails early', async () => {
  const registry = await createRegistry();
  const central = connectAs<unknown>(registry);
  onTestFinished(() => central.close(0));
  const env = { ...QUIET, STANDBY_DATABASES: '1' };
  const first = await startService({ registry, env });
  const world = await settleIn(first);
  const backup = await takeBackup(central.db);
  const { rows: waiting } = await sql<{ id: string }>`select id from standby_databases`.execute(central.db);
  await makeVictimWithData(world);
  const victim = await acknowledged(first, VICTIM);
  // Otherwise the tenant would come from the template.
  expect(waiting).toEqual([{ id: victim.id }]);
  await first.close();

  await putBack(central.db, backup);
  let failing = true;
  const { service, log } = await startAgain(registry, env, (_kind, step) => {
    if (failing && step === 'register') throw new Error('made to fail');
  });
  const failed = await make({ service }, 'next');
  expect(failed.status, failed.text).toBe(503);
  await runEverything(service);
  expect(await harmTo(victim, true)).toBeUndefined();

  failing = false;
  const made = await make({ service }, 'next');
  expect(made.status, made.text).toBe(201);
  expect(made.body.id).not.toBe(victim.id);
  await runEverything(service);
  expect(await harmTo(victim, true)).toBeUndefined();
  // Its row is lost, and the log must show that to an operator.
  expect(log()).toContain(victim.id);
});

it('a tenant whose row is restored to the middle of its creation becomes active or is reported, and is never dropped', async () => {
  const registry = await createRegistry();
  const central = connectAs<unknown>(registry);
  onTestFinished(() => central.close(0));
  const proxy = await startStatementProxy(inject('cluster').superuser);
  onTestFinished(() => proxy.close());
  const first = await startBehind(proxy, registry, QUIET);
  const world = await settleIn(first);
  let backup: RegistryBackup = '';
  // The last backup counts: only the statement that makes the tenant active is missing.
  proxy.onStatement = async (): Promise<Verdict> => {
    const now = await takeBackup(central.db);
    if (now.includes('"status": "provisioning"')) backup = now;
    return 'pass';
  };
  await makeVictim(world);
  proxy.onStatement = () => 'pass';
  await writeProduct(first, VICTIM);
  const victim = await acknowledged(first, VICTIM);
  await first.close();

  await putBack(central.db, backup);
  expect(statusIn(backup, victim.id)).toBe('provisioning');
  const { service, log } = await startAgain(registry, QUIET);
  await runEverything(service);
  expect(await harmTo(victim, true)).toBeUndefined();
  const { rows } = await sql<{ status: string }>`select status from tenants where id = ${victim.id}`.execute(
    central.db,
  );
  if (rows[0]?.status === 'active') expect(await signIn(service, VICTIM)).toBe(200);
  else expect(log()).toContain(victim.id);
});

/** Runs every job, and finishes every operation, also those that the jobs recorded. */
async function runEverything({ app }: TestService): Promise<void> {
  await finishOperations(app.engine);
  for (const job of JOBS) await app.engine.housekeeping.runNow(job);
  await finishOperations(app.engine);
}

/** Starts a service whose registry is behind the proxy. Close it. */
function startBehind(
  { host, port }: StatementProxy,
  registry: string,
  env: Readonly<Record<string, string>>,
): Promise<TestService> {
  const cluster = inject('cluster');
  return startServiceIn({ ...cluster, superuser: { ...cluster.superuser, host, port } }, { registry, env });
}

/** Starts a service on a restored registry; it closes at the end of the test. Also returns its log from warnings on. */
async function startAgain(
  registry: string,
  env: Readonly<Record<string, string>>,
  afterStep?: AppOverrides['afterOperationStep'],
): Promise<{ service: TestService; log: () => string }> {
  const lines: string[] = [];
  const service = await startService({
    registry,
    operator: false,
    env: { ...env, LOG_LEVEL: 'warn' },
    overrides: {
      logStream: { write: (line: string) => lines.push(line) },
      ...(afterStep && { afterOperationStep: afterStep }),
    },
  });
  onTestFinished(() => service.close());
  return { service, log: () => lines.join('') };
}

/** Waits for the standby databases, and makes the tenant and the database that every act needs. */
async function settleIn(service: TestService): Promise<World> {
  const { id, slug } = await service.createTenant('neighbour');
  await writeProduct(service, slug);
  const legacy = `legacy_${randomBytes(6).toString('hex')}`;
  await createLegacyDatabase(legacy, service.config.tenants.provisioner.user);
  await service.app.engine.housekeeping.runNow('standby databases');
  await finishOperations(service.app.engine);
  return { service, legacy, neighbour: { id, slug, dbName: (await acknowledged(service, slug)).dbName } };
}

/** Runs all jobs of a service, and makes tenants meanwhile: with the victim's slug and with other ones. */
async function liveOn(
  registry: string,
  { grace, standby, round, victim }: { grace: number; standby: number; round: number; victim: Acknowledged },
): Promise<{ acknowledged: readonly Acknowledged[]; harm: readonly string[] }> {
  let failing = false;
  const env = { ...QUIET, TENANT_DELETION_GRACE_MS: String(grace), STANDBY_DATABASES: String(standby) };
  const service = await startService({
    registry,
    operator: false,
    env,
    overrides: {
      afterOperationStep: (_kind, step) => {
        if (failing && step === 'register') throw new Error('made to fail');
      },
    },
  });
  try {
    const run = async (): Promise<void> => {
      await runEverything(service);
      await finishOperations(service.app.engine);
    };
    const other = `other-${round}`;
    failing = true;
    // The first act on the old registry: a tenant claims its standby database, and that fails.
    await make({ service }, other);
    failing = false;
    await run();
    const answers = [];
    for (const slug of [other, VICTIM]) answers.push({ slug, ...(await make({ service }, slug)) });
    await run();
    const harm = answers.flatMap(({ slug, status, text }) =>
      status === 201 || (slug === VICTIM && [409, 503].includes(status)) ? [] : [`"${slug}" got ${status}: ${text}`],
    );
    const made = answers.filter(({ status }) => status === 201);
    const rows = await Promise.all(made.map(({ slug }) => acknowledged(service, slug)));
    const taken = rows.filter(({ id, dbName }) => id === victim.id || dbName === victim.dbName);
    harm.push(...taken.map(({ slug }) => `"${slug}" was given the database of another tenant`));
    return { acknowledged: rows.filter((row) => !taken.includes(row)), harm };
  } finally {
    await service.close();
  }
}

/** Describes what is wrong with the database of an acknowledged tenant; undefined if nothing is. */
async function harmTo({ id, dbName }: Acknowledged, hasProduct: boolean): Promise<string | undefined> {
  const found = await contentOf(dbName);
  if (!found) return 'is gone';
  if (found.markers.join() !== id) return `is marked as that of ${found.markers.join()}`;
  if (found.users.join() !== ADMIN.email) return `has the users ${found.users.join()}`;
  if (hasProduct && !found.products.includes(PRODUCT)) return 'has lost its product';
  return undefined;
}

function statusIn(backup: RegistryBackup, id: string): string {
  const rows = JSON.parse(backup) as { tenants: { id: string; status: string }[]; standby_databases: { id: string }[] };
  const tenant = rows.tenants.find((row) => row.id === id);
  if (tenant) return tenant.status;
  return rows.standby_databases.some((row) => row.id === id) ? 'standby' : 'no row';
}

// An operator is deactivated or signed out while the operator's act waits in the registry. Derived from the route table: every act
// of operators.
import { randomUUID } from 'node:crypto';
import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import { findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import type { OperationKindName } from '../../src/operations/runner/operation-kinds.js';
import {
  ADMIN,
  asSuperuser,
  beginSession,
  connectAs,
  startService,
  type Answer,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { nameOf } from '../support/writes.js';
import { endRollout, insertStoppedRollout, insertUnreached } from '../support/rollout-rows.js';

type Db = Kysely<unknown>;
type State = 'active' | 'suspended' | 'deleted';

let service: TestService;
let registry: string;
let cluster: string;

beforeAll(async () => {
  service = await startService();
  registry = service.config.registry.connection.database;
  const { body } = await service.send<{ data: { id: string }[] }>('GET', '/clusters', { token: service.operatorToken });
  cluster = body.data[0]?.id ?? '';
  service.app.engine.runner.add({ name: OPERATION, plan: () => Promise.resolve('done') });
});
afterAll(() => service.close());

/** A kind of operation that only this test has. */
const OPERATION = 'in-flight' as OperationKindName;

/** Acts that are not tried here, and why. */
const exceptions: Readonly<Record<string, string>> = {
  'POST /clusters': 'needs a second server; its transaction ends with the look that the other acts of clusters have',
  'DELETE /clusters/:id': 'needs a second server; likewise',
  'POST /clusters/:id/check': 'changes nothing',
};

interface Act {
  readonly method: 'POST' | 'PATCH' | 'DELETE';
  readonly url: string;
  readonly body?: () => object;
  /** The state of the tenant that the act needs. */
  readonly state?: State;
}

let numbers = 0;
const newTenant = (): object => {
  numbers += 1;
  return { name: 'New', slug: `in-flight-new-${numbers}`, admin: ADMIN };
};

const acts: Readonly<Record<string, Act>> = {
  'POST /tenants': { method: 'POST', url: '/tenants', body: newTenant },
  'PATCH /tenants/:id': { method: 'PATCH', url: '/tenants/:id', body: () => ({ name: 'Renamed' }), state: 'active' },
  'DELETE /tenants/:id': { method: 'DELETE', url: '/tenants/:id', state: 'active' },
  'POST /tenants/:id/sign-out': { method: 'POST', url: '/tenants/:id/sign-out', state: 'active' },
  'POST /tenants/:id/suspend': { method: 'POST', url: '/tenants/:id/suspend', state: 'active' },
  'POST /tenants/:id/resume': { method: 'POST', url: '/tenants/:id/resume', state: 'suspended' },
  'POST /tenants/:id/restore': { method: 'POST', url: '/tenants/:id/restore', state: 'deleted' },
  'POST /tenants/:id/purge': { method: 'POST', url: '/tenants/:id/purge', state: 'deleted' },
  'POST /tenants/:id/rotate-password': { method: 'POST', url: '/tenants/:id/rotate-password', state: 'active' },
  'PATCH /clusters/:id': { method: 'PATCH', url: '/clusters/:id', body: () => ({ weight: 50 }) },
  'POST /clusters/:id/drain': { method: 'POST', url: '/clusters/:id/drain' },
  'POST /operations/:id/retry': { method: 'POST', url: '/operations/:id/retry' },
  'POST /operations/:id/abandon': { method: 'POST', url: '/operations/:id/abandon' },
  'POST /rollouts/:id/pause': { method: 'POST', url: '/rollouts/:id/pause' },
  'POST /rollouts/:id/resume': { method: 'POST', url: '/rollouts/:id/resume' },
  'POST /rollouts/:id/retry': { method: 'POST', url: '/rollouts/:id/retry' },
  'POST /rollouts/:id/abort': { method: 'POST', url: '/rollouts/:id/abort' },
  // The last one: what it begins runs on.
  'POST /rollouts': { method: 'POST', url: '/rollouts', body: () => ({}) },
};

const revocations: Readonly<Record<string, (db: Db, operatorId: string) => Promise<unknown>>> = {
  deactivated: (db, id) => sql`update operators set active = false where id = ${id}`.execute(db),
  'signed out': (db, id) => sql`delete from sessions where account_id = ${id}`.execute(db),
};

/** Tenants are kept by state. An act that changes its tenant removes it from here. */
const tenants = new Map<State, TestTenant>();

async function tenantIn(state: State): Promise<TestTenant> {
  const known = tenants.get(state);
  if (known) return known;
  const tenant = await service.createTenant(`in-flight-${(numbers += 1)}`);
  const token = service.operatorToken;
  if (state === 'suspended') await succeed(service.send('POST', `/tenants/${tenant.id}/suspend`, { token }));
  if (state === 'deleted') await succeed(service.send('DELETE', `/tenants/${tenant.id}`, { token }));
  tenants.set(state, tenant);
  return tenant;
}

async function succeed(answer: Promise<Answer>): Promise<void> {
  const { status, text } = await answer;
  expect([200, 201, 204], text).toContain(status);
}

async function addOperator(): Promise<{ id: string; token: string }> {
  const email = `in-flight-${(numbers += 1)}@example.com`;
  await insertOperator(service.app.engine.registry, { email, passwordHash: 'x' });
  const { id = '' } = (await findOperatorByEmail(service.app.engine.registry, email)) ?? {};
  return { id, token: await beginSession(service.app, { kind: 'operator', operatorId: id }) };
}

async function prepare({ method, url, body, state }: Act): Promise<(token: string) => Promise<Answer>> {
  const id = url.startsWith('/clusters')
    ? cluster
    : url.startsWith('/operations')
      ? await newOperation()
      : url.startsWith('/rollouts')
        ? await rolloutFor(url)
        : state && (await tenantIn(state)).id;
  return (token) => service.send(method, url.replace(':id', id ?? ''), { token, body: body?.() });
}

/** A rollout in a state that allows the act, or tenants for one. */
async function rolloutFor(url: string): Promise<string | undefined> {
  const { registry: db } = service.app.engine;
  if (url === '/rollouts') {
    await endRollout(db);
    await insertUnreached(db, 1);
    return undefined;
  }
  const id = await insertStoppedRollout(db, '9999_in_flight');
  if (url.endsWith('/pause')) await sql`update rollouts set state = 'running' where id = ${id}`.execute(db);
  return id;
}

async function newOperation(): Promise<string | undefined> {
  const operation = { kind: OPERATION, subject: randomUUID(), worker: 'in flight' };
  return (await insertOperation(service.app.engine.registry, operation))?.id;
}

/** Tenants, clusters, operations that were abandoned, rollouts, and their audit. */
async function contents(db: Db): Promise<unknown> {
  const { rows } = await sql`select
    (select jsonb_agg(tenants order by id) from tenants) as tenants,
    (select jsonb_agg(clusters order by id) from clusters) as clusters,
    (select count(*)::int from operations where state = 'abandoned') as abandoned,
    (select jsonb_agg(rollouts order by id) from rollouts) as rollouts,
    (select count(*)::int from audit where action ~ '^(tenant|cluster|operation|rollout)[.]') as audited`.execute(db);
  return rows[0];
}

/** Blocks writes to rows of tenants, clusters, operations and rollouts until `request` waits for one. Commits `meanwhile` with the release. */
async function whileHeld(request: () => Promise<Answer>, meanwhile: (db: Db) => Promise<unknown>): Promise<Answer> {
  const holder = connectAs<unknown>(registry);
  try {
    const { pending } = await holder.db.transaction().execute(async (trx) => {
      await sql`lock table tenants, clusters, operations, rollouts in share mode`.execute(trx);
      let answered = false;
      const pending = request().finally(() => (answered = true));
      await vi.waitUntil(async () => answered || (await someoneWaits(holder.db)), { timeout: 30_000, interval: 5 });
      expect(answered).toBe(false);
      await meanwhile(trx);
      return { pending };
    });
    return await pending;
  } finally {
    await holder.close(0);
  }
}

/** Uses a separate connection: within one transaction PostgreSQL shows the same activity again. */
async function someoneWaits(db: Db): Promise<boolean> {
  const { rows } = await sql`
    select pid from pg_locks where not granted and locktype = 'relation'
    and database = (select oid from pg_database where datname = current_database())`.execute(db);
  return rows.length > 0;
}

describe.each(Object.entries(acts))('%s, which waits in the registry,', (_name, act) => {
  it.each(Object.keys(revocations))('is refused with 401 once its operator is %s, and changes nothing', async (how) => {
    const request = await prepare(act);
    const { id, token } = await addOperator();
    const before = await asSuperuser(registry, contents);
    const answer = await whileHeld(
      () => request(token),
      (db) => revocations[how]?.(db, id) ?? Promise.reject(new Error('no way')),
    );
    expect([answer.status, answer.body['code']]).toEqual([401, 'unauthenticated']);
    expect(await asSuperuser(registry, contents)).toEqual(before);
  });

  it('succeeds for an operator who keeps the right to act', async () => {
    const request = await prepare(act);
    const { token } = await addOperator();
    await succeed(
      whileHeld(
        () => request(token),
        async () => undefined,
      ),
    );
    if (act.state) tenants.delete(act.state);
  });
});

it('tries every act of operators, except those that are named as exceptions', () => {
  const names = service.app.routeTable
    .filter(({ method, access }) => !['GET', 'HEAD'].includes(method) && access.scope === 'operator')
    .map(nameOf);
  expect([...names, 'PATCH /tenants/:id'].sort()).toEqual([...Object.keys(acts), ...Object.keys(exceptions)].sort());
});

it('creates no tenant if the operator is signed out while the admin’s password waits to be hashed', async () => {
  await endRollout(service.app.engine.registry);
  // The cluster may be drained by now.
  const accepting = { token: service.operatorToken, body: { accepting: true } };
  await succeed(service.send('PATCH', `/clusters/${cluster}`, accepting));
  const { id, token } = await addOperator();
  const { passwords } = service.app.engine;
  const before = await asSuperuser(registry, contents);
  const hash = passwords.hash.bind(passwords);
  const spy = vi.spyOn(passwords, 'hash').mockImplementation(async (...given) => {
    await asSuperuser(registry, (db) => revocations['signed out']?.(db, id) ?? Promise.reject(new Error('no way')));
    return hash(...given);
  });
  try {
    const answer = await service.send('POST', '/tenants', { token, body: newTenant() });
    expect([answer.status, answer.body['code']]).toEqual([401, 'unauthenticated']);
    expect(await asSuperuser(registry, contents)).toEqual(before);
  } finally {
    spy.mockRestore();
  }
});

// Making a tenant as an operation: the service continues after the answer, another replica takes over from one that vanished, and
// nobody drops what may hold data.
import { sql } from 'kysely';
import { inject, expect, it, onTestFinished } from 'vitest';
import { abandonOperation } from '../../db/registry/operations/operation-steering.js';
import { listOperations } from '../../db/registry/operations/operation-lists.js';
import { type OperationRecord } from '../../db/registry/operations/operation-rows.js';
import { findTenantBySlug, type TenantRecord } from '../../db/registry/tenant-queries.js';
import {
  ADMIN,
  asSuperuser,
  createRegistry,
  OPERATOR,
  startServiceIn,
  type Answer,
  type TestService,
} from '../support/app.js';
import { signIn, stateOfDatabase } from '../support/evidence.js';
import { patiently } from '../support/lost-answers.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { eventually } from '../support/service-process.js';

interface Unfinished {
  readonly code: string;
  readonly operationId: string;
}

const QUIET = { RECONCILE_EVERY_MS: '3600000', STANDBY_DATABASES: '0' };

async function start(
  registry: string,
  options: Parameters<typeof startServiceIn>[1] = {},
  cluster = inject('cluster'),
): Promise<TestService> {
  const service = await startServiceIn(cluster, { registry, env: QUIET, ...options });
  onTestFinished(() => service.close());
  return service;
}

/** A service whose tenants' server is behind a proxy. */
async function startBehindProxy(
  options: Parameters<typeof startServiceIn>[1] = {},
): Promise<{ service: TestService; proxy: Proxy }> {
  const cluster = inject('cluster');
  const proxy = await startProxy(cluster.provisioner);
  onTestFinished(() => proxy.close());
  const { host, port } = proxy;
  const service = await start(await createRegistry(), options, {
    ...cluster,
    provisioner: { ...cluster.provisioner, host, port },
  });
  return { service, proxy };
}

function make(service: TestService, slug: string, key?: string): Promise<Answer<Unfinished & { id: string }>> {
  return service.send('POST', '/tenants', {
    token: service.operatorToken,
    body: { name: 'Made as an operation', slug, admin: ADMIN },
    ...(key !== undefined && { headers: { 'idempotency-key': key } }),
  });
}

async function creationOf(
  service: TestService,
  slug: string,
): Promise<{ row?: TenantRecord; operation: OperationRecord }> {
  const { registry } = service.app.engine;
  const row = await findTenantBySlug(registry, slug);
  const page = { kind: 'create', direction: 'desc', limit: 10, ...(row && { tenantId: row.id }) } as const;
  const [operation] = await listOperations(registry, page);
  if (!operation) throw new Error('there is no operation');
  return { ...(row && { row }), operation };
}

it('a creation on a server that hangs is answered with its operation at the deadline, and goes on when the server is back', async () => {
  const { service, proxy } = await startBehindProxy({ overrides: { operationTimes: { createDeadline: 6_000 } } });
  expect((await make(service, 'first')).status).toBe(201);
  proxy.mode = 'hang';
  const answer = await make(service, 'hanging', 'key-hanging');
  expect(answer).toMatchObject({ status: 503, body: { code: 'operation-unfinished' } });
  expect(answer.headers['retry-after']).toBe('5');
  const { operation } = await creationOf(service, 'hanging');
  expect(answer.text).toContain(operation.id);
  expect(await make(service, 'hanging', 'key-hanging')).toMatchObject({
    status: 409,
    body: { code: 'idempotency-key-in-use' },
  });
  proxy.mode = 'pass';
  await eventually('it is made', async () => (await creationOf(service, 'hanging')).row?.status === 'active', 60_000);
  const { row, operation: ended } = await creationOf(service, 'hanging');
  expect(ended).toMatchObject({ id: operation.id, state: 'done' });
  expect(await signIn(service, 'hanging')).toBe(200);
  expect(await make(service, 'hanging', 'key-hanging')).toMatchObject({ status: 201, body: { id: row?.id } });
}, 150_000);

// At the same time: each waits until the operation is due again.
it('a replica that vanishes after the step "role", "database" or "fill" loses the operation within 30 s: another one undoes it, and the first changes nothing more', async () => {
  await Promise.all(['role', 'database', 'fill'].map(vanishAfter));
}, 150_000);

async function vanishAfter(at: string): Promise<void> {
  const registry = await createRegistry();
  let resume: () => void = () => undefined;
  const paused = new Promise<void>((resolve) => (resume = resolve));
  let reached: () => void = () => undefined;
  const arrived = new Promise<void>((resolve) => (reached = resolve));
  const vanishing = await start(registry, {
    overrides: {
      afterOperationStep: async (_kind, step) => {
        if (step !== at) return;
        reached();
        await paused;
      },
    },
  });
  onTestFinished(resume);
  const first = make(vanishing, 'vanishing');
  await arrived;
  const { row, operation } = await creationOf(vanishing, 'vanishing');
  // Its locks are free, as if its process or its host were gone. It is not ended, so that it comes back.
  await endLockSessions(registry);
  const other = await start(registry, { operator: false });
  const now = () => operationOf(other, operation.id);
  await eventually('another one has it', async () => (await now())?.state !== operation.state, 30_000);
  // A slow disk takes many seconds to drop a database.
  await eventually('it is undone', async () => (await now())?.state === 'undone', 60_000);
  expect(await findTenantBySlug(other.app.engine.registry, 'vanishing')).toBeUndefined();
  expect(await stateOfDatabase(row?.dbName ?? '')).toMatchObject({ exists: false });

  resume();
  expect((await first).status).toBe(503);
  expect(await findTenantBySlug(other.app.engine.registry, 'vanishing')).toBeUndefined();
  expect(await stateOfDatabase(row?.dbName ?? '')).toMatchObject({ exists: false });
  expect(await operationOf(other, operation.id)).toMatchObject({ state: 'undone' });
  expect((await make(vanishing, 'vanishing')).status).toBe(201);
}

it('a replica that vanishes after the mark leaves a tenant that another one makes active within 30 s', async () => {
  const registry = await createRegistry();
  let resume: () => void = () => undefined;
  const paused = new Promise<void>((resolve) => (resume = resolve));
  const vanishing = await start(registry, {
    overrides: { afterOperationStep: (_kind, step) => (step === 'mark' ? paused : undefined) },
  });
  onTestFinished(resume);
  const first = make(vanishing, 'marked');
  await eventually('it is marked', async () => {
    const row = await findTenantBySlug(vanishing.app.engine.registry, 'marked');
    return row !== undefined && (await markOn(row.dbName)).includes(' tenant ');
  });
  const { row, operation } = await creationOf(vanishing, 'marked');
  await endLockSessions(registry);
  await makeDue(vanishing, operation);
  const other = await start(registry, { operator: false });
  await eventually('it is done', async () => (await operationOf(other, operation.id))?.state === 'done', 30_000);
  expect(await signIn(other, 'marked')).toBe(200);
  const audited = await other.app.engine.registry
    .selectFrom('audit')
    .innerJoin('operators', 'operators.id', 'audit.actor_id')
    .select(['audit.action', 'operators.email'])
    .where('audit.target_id', '=', row?.id ?? '')
    .execute();
  expect(audited).toEqual([{ action: 'tenant.created', email: OPERATOR.email }]);
  resume();
  // The request is answered with the tenant that the other replica has made active.
  expect(await first).toMatchObject({ status: 201, body: { id: row?.id } });
}, 90_000);

it('a creation that is abandoned while its server is away frees the slug, and leaves what is on the server', async () => {
  const { service, proxy } = await startBehindProxy();
  const { registry, runner } = service.app.engine;
  expect((await make(service, 'first')).status).toBe(201);
  let name = '';
  proxy.mode = 'hang';
  const first = make(service, 'given-up');
  await eventually('it is recorded', async () => {
    const row = await findTenantBySlug(registry, 'given-up');
    name = row?.dbName ?? '';
    return row !== undefined;
  });
  const { operation } = await creationOf(service, 'given-up');
  // What a worker has done on the server before the server was away.
  await asSuperuser('postgres', (db) => sql`create database ${sql.id(name)}`.execute(db));
  await registry.transaction().execute(async (trx) => {
    const abandoned = await abandonOperation(trx, operation.id);
    if (abandoned) await runner.kindOf('create')?.abandon?.(trx, abandoned);
  });
  proxy.mode = 'pass';
  expect((await first).status).toBe(503);
  expect(await findTenantBySlug(registry, 'given-up')).toBeUndefined();
  expect(await operationOf(service, operation.id)).toMatchObject({ state: 'abandoned' });
  expect(await stateOfDatabase(name)).toMatchObject({ exists: true });
  expect((await make(service, 'given-up')).status).toBe(201);
  await asSuperuser('postgres', (db) => sql`drop database ${sql.id(name)}`.execute(db));
}, 120_000);

it('fifty requests at once make one tenant for each key, and each gets it', async () => {
  const registry = await createRegistry();
  const [here, there] = [await start(registry), await start(registry, { operator: false })];
  const send = (nth: number): ReturnType<typeof make> =>
    make(
      { ...(nth % 2 === 0 ? here : there), operatorToken: here.operatorToken },
      `keyed-${nth % 5}`,
      `key-${nth % 5}`,
    );
  // A repeated request is refused while the first one is under way, and a busy machine may refuse to hash so many passwords.
  const answers = await Promise.all(Array.from({ length: 50 }, (_, nth) => patiently(() => send(nth))));
  expect(answers.flatMap(({ status, text }) => (status === 201 ? [] : text))).toEqual([]);
  const ids = new Set(answers.map(({ body }) => body.id));
  expect(ids.size).toBe(5);
  const { rows } = await asSuperuser(registry, (db) =>
    sql<{ slug: string }>`select slug from tenants where slug like 'keyed-%' order by slug`.execute(db),
  );
  expect(rows.map(({ slug }) => slug)).toEqual(['keyed-0', 'keyed-1', 'keyed-2', 'keyed-3', 'keyed-4']);
}, 120_000);

async function operationOf(service: TestService, id: string): Promise<Pick<OperationRecord, 'state'> | undefined> {
  const { rows } = await sql<{
    state: OperationRecord['state'];
  }>`select state from operations where id = ${id}`.execute(service.app.engine.registry);
  return rows[0];
}

/** Lets any worker take an operation at once. */
async function makeDue({ app }: TestService, { id }: Pick<OperationRecord, 'id'>): Promise<void> {
  await sql`update operations set not_before = now() - interval '1 second' where id = ${id}`.execute(
    app.engine.registry,
  );
}

async function markOn(database: string): Promise<string> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ mark: string | null }>`
      select shobj_description(oid, 'pg_database') as mark from pg_database where datname = ${database}`.execute(db),
  );
  return rows[0]?.mark ?? '';
}

function endLockSessions(registry: string): Promise<unknown> {
  return asSuperuser(registry, (db) =>
    sql`select pg_terminate_backend(pid, 5000) from pg_stat_activity
      where application_name = 'tenantry locks' and datname = current_database()`.execute(db),
  );
}

// GET /operations, and what operators do with an operation: retry and abandon.
import { sql, type KyselyPlugin } from 'kysely';
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import {
  endOperation,
  insertOperation,
  type NewOperation,
  type OperationRecord,
} from '../../db/registry/operations/operation-rows.js';
import { sweepOperations } from '../../db/registry/operations/operation-lists.js';
import type { OperationState } from '../../db/registry/operations/operations-table.js';
import { countUnfinished } from '../../db/registry/status-queries.js';
import { faultsOf } from '../../src/observability/log-fields.js';
import { leftAsItIs } from '../../src/operations/reports.js';
import {
  LostOperation,
  type OperationKind,
  type OperationKindName,
  type Step,
} from '../../src/operations/runner/operation-kinds.js';
import {
  asSuperuser,
  startService,
  startServiceForTest,
  type PageOf,
  type Problem,
  type TestService,
  type TestTenant,
} from '../support/app.js';

interface Operation {
  readonly id: string;
  readonly kind: string;
  readonly state: OperationState;
  readonly step: string | null;
  readonly attempts: number;
  readonly notBefore: string | null;
  readonly tenantId: string | null;
  readonly clusterId: string | null;
  readonly createdAt: string;
  readonly endedAt: string | null;
  readonly message: string;
}

let service: TestService;
let registryName: string;
beforeAll(async () => {
  service = await startService();
  registryName = service.config.registry.connection.database;
});
afterAll(() => service.close());

/** A kind that only these tests have. A service looks for no rows of it. */
const TEST = 'test' as OperationKindName;

/** A step that can be begun only once. */
function step(name: string, act: () => Promise<void>): Step {
  return { name, settled: () => Promise.resolve('not-done'), do: act };
}

/** Makes a kind known for one test. Its name is unique, because a kind is made known once. */
function addKind(of: TestService, kind: Omit<OperationKind, 'name'>): OperationKind {
  const made = { ...kind, name: `test-${randomUUID().slice(0, 8)}` as OperationKindName };
  of.app.engine.runner.add(made);
  return made;
}

async function recordIn(of: TestService, given: Partial<NewOperation>): Promise<OperationRecord> {
  const operation = await insertOperation(of.app.engine.registry, { kind: TEST, subject: randomUUID(), ...given });
  if (!operation) throw new Error('the subject has such an operation already');
  return operation;
}

/** Records an operation that no worker takes. */
async function insert(
  given: Partial<NewOperation> & { readonly state?: OperationState; readonly step?: string; readonly error?: string },
): Promise<OperationRecord> {
  const { state = 'needs-person', step: at = null, error = null, ...operation } = given;
  const made = await recordIn(service, { ...operation, worker: 'none' });
  await asSuperuser(registryName, (db) =>
    sql`update operations set state = ${state}, step = ${at}, error = ${error}, undoes = ${state === 'undoing'},
        ended_at = case when ${state} in ('done', 'undone', 'abandoned') then now() end,
        not_before = now() + interval '1 hour'
      where id = ${made.id}`.execute(db),
  );
  return made;
}

async function read(id: string): Promise<Operation> {
  const answer = await service.send<Operation>('GET', `/operations/${id}`, { token: service.operatorToken });
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
}

const act = (name: 'retry' | 'abandon', id: string, of = service) =>
  of.send<Operation & Problem>('POST', `/operations/${id}/${name}`, { token: of.operatorToken });

async function auditOf(id: string): Promise<unknown[]> {
  const { rows } = await asSuperuser(registryName, (db) =>
    sql`select action, actor_kind as actor, target_kind as target, tenant_id as "tenantId", details
      from audit where target_id = ${id} order by at, id`.execute(db),
  );
  return rows;
}

describe('the list of operations', () => {
  const tenantId = randomUUID();
  const clusterId = randomUUID();
  const ids: string[] = [];
  beforeAll(async () => {
    for (let index = 0; index < 7; index += 1) {
      const given = { kind: index % 2 === 0 ? 'reencrypt' : 'withdraw', tenantId, clusterId } as const;
      const state = (['needs-person', 'done', 'abandoned'] as const)[index % 3] ?? 'done';
      ids.push((await insert({ ...given, state })).id);
    }
    await insert({ kind: 'reencrypt' });
  });

  async function list(query: string): Promise<PageOf<Operation>> {
    const answer = await service.send<PageOf<Operation>>('GET', `/operations?${query}`, {
      token: service.operatorToken,
    });
    expect(answer.status, answer.text).toBe(200);
    return answer.body;
  }
  const idsOf = ({ data }: PageOf<Operation>): string[] => data.map(({ id }) => id);

  it('begins with the newest, and has every operation once, page by page', async () => {
    const seen: string[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const page: PageOf<Operation> = await list(
        `tenant=${tenantId}&limit=2${cursor === '' ? '' : `&cursor=${cursor}`}`,
      );
      seen.push(...idsOf(page));
      cursor = page.nextCursor;
    }
    expect(seen).toEqual([...ids].reverse());
    expect(idsOf(await list(`tenant=${tenantId}&sort=createdAt`))).toEqual(ids);
  });

  it('is filtered by kind, state, tenant and cluster', async () => {
    const every = (which: (index: number) => boolean): string[] => ids.filter((_, index) => which(index)).reverse();
    expect(idsOf(await list(`cluster=${clusterId}`))).toEqual(every(() => true));
    expect(idsOf(await list(`tenant=${tenantId}&kind=reencrypt`))).toEqual(every((index) => index % 2 === 0));
    expect(idsOf(await list(`cluster=${clusterId}&state=abandoned`))).toEqual(every((index) => index % 3 === 2));
    expect(idsOf(await list(`cluster=${clusterId}&state=done&kind=withdraw`))).toEqual(
      every((index) => index % 3 === 1 && index % 2 === 1),
    );
    expect(await list(`tenant=${randomUUID()}`)).toEqual({ data: [], nextCursor: null });
  });

  it('refuses the cursor of other filters', async () => {
    const { nextCursor } = await list(`tenant=${tenantId}&limit=1`);
    const { operatorToken: token } = service;
    const other = await service.send<Problem>('GET', `/operations?limit=1&cursor=${nextCursor ?? ''}`, { token });
    expect([other.status, other.body.code]).toEqual([400, 'invalid-cursor']);
  });

  it.each([
    'kind=nothing',
    'state=unfinished',
    'tenant=1',
    `cluster=${'A'.repeat(36)}`,
    'sort=kind',
    'limit=0',
    'tenantId=1',
    'state=done&state=undone',
  ])('refuses %s', async (query) => {
    const answer = await service.send<Problem>('GET', `/operations?${query}`, { token: service.operatorToken });
    expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
  });
});

describe('an operation', () => {
  it('is shown with what is going on, and without its details', async () => {
    const { id, subject } = await insert({
      kind: 'remove',
      tenantId: randomUUID(),
      clusterId: randomUUID(),
      operatorId: randomUUID(),
      claim: randomUUID(),
      details: { canary: 'canary' },
      state: 'waiting',
      step: 'database',
      error: 'The step "database" failed: a database could not be used (ECONNREFUSED).',
    });
    await asSuperuser(registryName, (db) =>
      sql`update operations set progress_done = 3, progress_total = 10 where id = ${id}`.execute(db),
    );
    const answer = await service.send<Operation>('GET', `/operations/${id}`, { token: service.operatorToken });
    expect(answer.body).toEqual({
      id,
      kind: 'remove',
      state: 'waiting',
      step: 'database',
      progress: { done: 3, total: 10 },
      attempts: 1,
      error: 'The step "database" failed: a database could not be used (ECONNREFUSED).',
      tenantId: expect.any(String) as string,
      clusterId: expect.any(String) as string,
      startedBy: expect.any(String) as string,
      notBefore: expect.stringMatching(/^\d{4}-.*Z$/) as string,
      createdAt: expect.stringMatching(/^\d{4}-.*Z$/) as string,
      updatedAt: expect.stringMatching(/^\d{4}-.*Z$/) as string,
      endedAt: null,
      message: expect.stringMatching(
        /^The service was removing a tenant, and waits at the step "database"\. It tries again by itself, next at /,
      ) as string,
    });
    expect(answer.text).not.toMatch(new RegExp(`canary|${subject}`));
  });

  it.each<[OperationState, RegExp]>([
    ['running', /^The service is changing a database password at the step "alter"\. Nothing needs to be done\.$/],
    ['undoing', /a step failed, and it is undoing what it did\. Nothing needs to be done\.$/],
    ['waiting', /Retry to try at once\. Abandon to give up\. Both passwords stay known/],
    [
      'needs-person',
      /It does not go on by itself\. Find out why, and retry; or abandon it, which deletes no database\./,
    ],
    ['done', /^This operation, changing a database password, is done\.$/],
    ['undone', /what it did was undone\. The same request can be sent again\.$/],
    ['abandoned', /^An operator abandoned this operation, changing a database password\. Both passwords stay/],
  ])('says in plain words what can be done: %s', async (state, words) => {
    const { id } = await insert({ kind: 'rotate', state, step: 'alter' });
    const operation = await read(id);
    expect(operation.message).toMatch(words);
    expect(operation.notBefore === null).toBe(state !== 'waiting');
    expect(operation.endedAt === null).toBe(!['done', 'undone', 'abandoned'].includes(state));
  });

  it('of a newer build is shown, and cannot be abandoned here', async () => {
    const { id } = await insert({ kind: 'conquer' });
    expect(await read(id)).toMatchObject({ kind: 'conquer', message: expect.stringContaining('"conquer"') as string });
    const refused = await act('abandon', id);
    expect([refused.status, refused.body.code]).toEqual([409, 'operation-state']);
    expect(await read(id)).toMatchObject({ state: 'needs-person' });
    expect(await auditOf(id)).toEqual([]);
  });

  it('that does not exist is 404, and a wrong id is 400, on every route', async () => {
    const { operatorToken: token } = service;
    for (const [method, suffix] of [
      ['GET', ''],
      ['POST', '/retry'],
      ['POST', '/abandon'],
    ] as const) {
      const unknown = await service.send<Problem>(method, `/operations/${randomUUID()}${suffix}`, { token });
      expect([suffix, unknown.status, unknown.body.code]).toEqual([suffix, 404, 'not-found']);
      const wrong = await service.send<Problem>(method, `/operations/1${suffix}`, { token });
      expect([suffix, wrong.status, wrong.body.code]).toEqual([suffix, 400, 'invalid-request']);
    }
  });

  it('is seen and steered by operators only', async () => {
    const { adminToken: token } = await service.createTenant();
    const { id } = await insert({});
    for (const [method, url] of [
      ['GET', '/operations'],
      ['GET', `/operations/${id}`],
      ['POST', `/operations/${id}/retry`],
      ['POST', `/operations/${id}/abandon`],
    ] as const) {
      expect((await service.send(method, url)).status).toBe(401);
      expect((await service.send(method, url, { token })).status).toBe(403);
    }
    expect(await read(id)).toMatchObject({ state: 'needs-person' });
  });
});

describe('retry', () => {
  it('lets an operation that waits for a person go on, and is audited', async () => {
    let mended = false;
    const kind = addKind(service, {
      plan: () =>
        Promise.resolve({
          steps: [
            step('look', () =>
              mended ? Promise.resolve() : Promise.reject(leftAsItIs('the database carries no mark')),
            ),
          ],
        }),
    });
    const tenantId = randomUUID();
    const operation = await recordIn(service, { kind: kind.name, tenantId, worker: 'here' });
    expect(await service.app.engine.runner.work(kind, operation)).toMatchObject({ state: 'needs-person' });
    expect(await read(operation.id)).toMatchObject({ state: 'needs-person', step: 'look' });
    await service.app.engine.runner.takeUp.now();
    expect(await read(operation.id)).toMatchObject({ state: 'needs-person', attempts: 1 });

    mended = true;
    // The service takes it up by itself.
    service.app.engine.runner.takeUp.begin();
    const retried = await act('retry', operation.id);
    expect(retried.status, retried.text).toBe(200);
    expect(retried.body.id).toBe(operation.id);
    await expect.poll(async () => (await read(operation.id)).state, { timeout: 30_000 }).toBe('done');
    expect(await auditOf(operation.id)).toEqual([
      {
        action: 'operation.retried',
        actor: 'operator',
        target: 'operation',
        tenantId,
        details: { kind: kind.name, state: 'needs-person', step: 'look' },
      },
    ]);
    const again = await act('retry', operation.id);
    expect([again.status, again.body.code]).toEqual([409, 'operation-state']);
    expect(await auditOf(operation.id)).toHaveLength(1);
  }, 60_000);

  it.each(['done', 'undone', 'abandoned'] as const)(
    'is refused for an operation that is %s, as abandon is',
    async (state) => {
      const kind = addKind(service, { plan: () => Promise.resolve('done') });
      const { id } = await insert({ kind: kind.name, state });
      for (const name of ['retry', 'abandon'] as const) {
        const refused = await act(name, id);
        expect([refused.status, refused.body.code]).toEqual([409, 'operation-state']);
        expect(refused.text).toContain(`The operation has ended as \\"${state}\\".`);
      }
      expect(await auditOf(id)).toEqual([]);
    },
  );
});

describe('abandon', () => {
  let tenant: TestTenant;
  const nameOf = async (): Promise<string | undefined> =>
    (await service.app.engine.tenantDirectory.find(tenant.id))?.name;
  /** A kind that renames the tenant when it is abandoned. */
  const renaming = (to: string, after?: () => void): OperationKind =>
    addKind(service, {
      plan: () => Promise.resolve('done'),
      async abandon(trx, { tenantId }) {
        await trx.updateTable('tenants').set({ name: to }).where('id', '=', tenantId).execute();
        after?.();
      },
    });
  beforeAll(async () => {
    tenant = await service.createTenant();
  });

  it('ends the operation with what its kind changes, is audited, and is effective on every replica', async () => {
    const other = await startServiceForTest({ registry: registryName, operator: false });
    const seenByOther = async (): Promise<string | undefined> =>
      (await other.app.engine.tenantDirectory.find(tenant.id))?.name;
    expect(await seenByOther()).toBe(await nameOf());
    const kind = renaming('Renamed');
    const { id } = await insert({ kind: kind.name, subject: tenant.id, tenantId: tenant.id, step: 'look' });
    const abandoned = await act('abandon', id);
    expect(abandoned.status, abandoned.text).toBe(200);
    expect(abandoned.body).toMatchObject({
      id,
      state: 'abandoned',
      attempts: 1,
      endedAt: expect.any(String) as string,
    });
    expect(await nameOf()).toBe('Renamed');
    await expect.poll(seenByOther).toBe('Renamed');
    expect(await auditOf(id)).toMatchObject([
      { action: 'operation.abandoned', actor: 'operator', target: 'operation', tenantId: tenant.id },
    ]);
    const listed = await service.send<PageOf<{ action: string }>>('GET', `/tenants/${tenant.id}/audit`, {
      token: service.operatorToken,
    });
    expect(listed.body.data[0]).toMatchObject({ action: 'operation.abandoned', target: { kind: 'operation', id } });
  }, 60_000);

  it('changes nothing if a part of it fails', async () => {
    const before = await nameOf();
    const kind = renaming('Half done', () => {
      throw new Error('broken on purpose');
    });
    const { id } = await insert({ kind: kind.name, subject: tenant.id, tenantId: tenant.id });
    expect((await act('abandon', id)).status).toBe(500);
    const { rows } = await asSuperuser(registryName, (db) =>
      sql<{ name: string }>`select name from tenants where id = ${tenant.id}`.execute(db),
    );
    expect(rows).toEqual([{ name: before }]);
    expect(await read(id)).toMatchObject({ state: 'needs-person', endedAt: null });
    expect(await auditOf(id)).toEqual([]);
  });

  it('is refused to an operator whose account was deactivated while the request waited', async () => {
    const { operatorToken: token } = service;
    const kind = addKind(service, {
      plan: () => Promise.resolve('done'),
      async abandon() {
        await asSuperuser(registryName, (db) => sql`update operators set active = false`.execute(db));
      },
    });
    const { id } = await insert({ kind: kind.name });
    const refused = await service.send<Problem>('POST', `/operations/${id}/abandon`, { token });
    await asSuperuser(registryName, (db) => sql`update operators set active = true`.execute(db));
    expect([refused.status, refused.body.code]).toEqual([401, 'unauthenticated']);
    const { rows } = await asSuperuser(registryName, (db) =>
      sql`select state, ended_at from operations where id = ${id}`.execute(db),
    );
    expect(rows).toEqual([{ state: 'needs-person', ended_at: null }]);
  });

  it('takes the operation from a worker that runs, which then changes nothing', async () => {
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    let begun = (): void => undefined;
    const isBegun = new Promise<void>((resolve) => (begun = resolve));
    const did: string[] = [];
    const { registry } = service.app.engine;
    const before = await nameOf();
    const kind: OperationKind = addKind(service, {
      plan: (operation) =>
        Promise.resolve({
          steps: [
            step('first', async () => {
              begun();
              await held;
              did.push('first');
            }),
            step('last', async () => {
              did.push('last');
              await registry.transaction().execute(async (trx) => {
                await trx.updateTable('tenants').set({ name: 'Lost' }).where('id', '=', tenant.id).execute();
                if (!(await endOperation(trx, operation, 'done'))) throw new LostOperation();
              });
            }),
          ],
        }),
    });
    const { id, ...rest } = await recordIn(service, { kind: kind.name, subject: tenant.id, worker: 'here' });
    const work = service.app.engine.runner.work(kind, { id, ...rest });
    await isBegun;
    // A step that takes long is seen while it runs.
    await expect.poll(() => read(id)).toMatchObject({ state: 'running', step: 'first' });
    expect((await act('abandon', id)).status).toBe(200);
    release();
    expect(await work).toEqual({ state: 'lost' });
    expect(did[0]).toBe('first');
    expect(await read(id)).toMatchObject({ state: 'abandoned', attempts: 1, step: 'first' });
    const { rows } = await asSuperuser(registryName, (db) =>
      sql<{ name: string }>`select name from tenants where id = ${tenant.id}`.execute(db),
    );
    expect(rows).toEqual([{ name: before }]);
    // The next one of the subject can begin.
    await recordIn(service, { kind: kind.name, subject: tenant.id, worker: 'here' });
  });

  it('waits for the last step of a worker, and is refused if that ended the operation', async () => {
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    let locked = (): void => undefined;
    const isLocked = new Promise<void>((resolve) => (locked = resolve));
    const { registry, runner } = service.app.engine;
    const rename = (db: typeof registry, to: string): Promise<unknown> =>
      db.updateTable('tenants').set({ name: to }).where('id', '=', tenant.id).execute();
    const kind: OperationKind = addKind(service, {
      plan: (operation) =>
        Promise.resolve({
          steps: [
            step('last', () =>
              registry.transaction().execute(async (trx) => {
                await rename(trx, 'By the worker');
                locked();
                await held;
                if (!(await endOperation(trx, operation, 'done'))) throw new LostOperation();
              }),
            ),
          ],
        }),
      async abandon(trx) {
        await rename(trx, 'By the operator');
      },
    });
    const operation = await recordIn(service, { kind: kind.name, subject: randomUUID(), worker: 'here' });
    const work = runner.work(kind, operation);
    await isLocked;
    const abandoned = act('abandon', operation.id);
    // The request waits for the row of the tenant.
    await expect
      .poll(() =>
        asSuperuser(registryName, async (db) => {
          const { rows } = await sql`select pid from pg_locks where not granted and locktype = 'transactionid'`.execute(
            db,
          );
          return rows.length;
        }),
      )
      .toBe(1);
    release();
    expect(await work).toEqual({ state: 'done' });
    expect((await abandoned).status).toBe(409);
    const { rows } = await asSuperuser(registryName, (db) =>
      sql<{ name: string }>`select name from tenants where id = ${tenant.id}`.execute(db),
    );
    expect(rows).toEqual([{ name: 'By the worker' }]);
    expect(await read(operation.id)).toMatchObject({ state: 'done' });
  });

  it('happens once, of 50 abandons and 50 retries at once', async () => {
    let abandons = 0;
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    const kind = addKind(service, {
      // A worker that takes it meanwhile does not end it.
      plan: () => held.then(() => 'done'),
      abandon: async (trx, { tenantId }) => {
        abandons += 1;
        await trx.updateTable('tenants').set({ name: 'Once' }).where('id', '=', tenantId).execute();
      },
    });
    const { id } = await insert({ kind: kind.name, subject: randomUUID(), tenantId: tenant.id });
    const answers = await Promise.all(
      Array.from({ length: 100 }, async (_, index) => {
        const name = index % 2 === 0 ? 'abandon' : 'retry';
        return { name, ...(await act(name, id)) } as const;
      }),
    );
    release();
    const of = (name: string, status: number): number =>
      answers.filter((answer) => answer.name === name && answer.status === status).length;
    expect(of('abandon', 200)).toBe(1);
    expect(of('abandon', 409)).toBe(49);
    expect(of('retry', 200) + of('retry', 409)).toBe(50);
    for (const { status, body } of answers) if (status === 409) expect(body.code).toBe('operation-state');
    expect(abandons).toBeGreaterThan(0);
    expect(await auditOf(id)).toHaveLength(1 + of('retry', 200));
    expect(await read(id)).toMatchObject({ state: 'abandoned' });
    expect((await act('retry', id)).status).toBe(409);
  }, 60_000);
});

describe('the log', () => {
  it('has one line when an operation begins to wait, needs a person, has failed, or ends after it waited', async () => {
    const written: string[] = [];
    const logging = await startServiceForTest({
      env: { LOG_LEVEL: 'info' },
      overrides: { logStream: { write: (line: string) => void written.push(line) } },
    });
    const { runner, registry } = logging.app.engine;
    const errors: Error[] = [];
    const kind = addKind(logging, {
      plan: () =>
        Promise.resolve({
          steps: [
            step('reach', () => {
              const error = errors.shift();
              return error === undefined ? Promise.resolve() : Promise.reject(error);
            }),
          ],
        }),
    });
    const linesOf = ({ id }: OperationRecord): unknown[] =>
      written
        .map((line) => JSON.parse(line) as Record<string, unknown>)
        .filter(({ operationId }) => operationId === id)
        .map((line) => {
          expect(faultsOf(line)).toEqual([]);
          return [line['level'], line['msg'], line['step'] ?? null];
        });
    const away = new DatabaseFault('unavailable', 'ECONNREFUSED');
    const late = new DatabaseFault('timeout', 'no answer');
    /** Works on it as often as there are errors, and once more. */
    async function run(tenantId: string | undefined, ...given: Error[]): Promise<OperationRecord> {
      const operation = await recordIn(logging, { kind: kind.name, tenantId, clusterId: randomUUID(), worker: 'here' });
      errors.splice(0, errors.length, ...given);
      await runner.work(kind, operation);
      for (const _ of given) {
        await sql`update operations set not_before = now() - interval '1 second' where id = ${operation.id}`.execute(
          registry,
        );
        await runner.takeUp.now();
      }
      return operation;
    }
    const waits = ['warn', 'an operation waits, and will be tried again', 'reach'];
    expect(linesOf(await run(randomUUID(), away, away, late, late, late))).toEqual([
      waits,
      waits,
      ['info', 'an operation is done, after it had to wait', null],
    ]);
    expect(linesOf(await run(undefined, leftAsItIs('the database carries no mark')))).toEqual([
      ['error', 'an operation needs a person', 'reach'],
    ]);
    expect(written.filter((line) => line.includes('"event":"evidence-refused"'))).toHaveLength(1);
    expect(linesOf(await run(undefined, new Error('broken on purpose')))).toEqual([
      ['error', 'an operation failed, and is undone', 'reach'],
    ]);
    expect(linesOf(await run(undefined))).toEqual([]);
  }, 60_000);
});

it('the sweep deletes operations that ended long ago, page by page, and none that is unfinished', async () => {
  const own = await startServiceForTest();
  const { database } = own.config.registry.connection;
  const { registry, housekeeping } = own.app.engine;
  // After the run at the start, no other one is due.
  await housekeeping.runNow('operations sweep');
  const add = (count: number, kind: string, state: OperationState, ended: string | null): Promise<unknown> =>
    asSuperuser(database, (db) =>
      sql`insert into operations (id, kind, subject, state, created_at, ended_at, not_before)
        select gen_random_uuid(), ${kind}, gen_random_uuid(), ${state}, now() - interval '1 year',
          now() - ${ended}::interval, now() + interval '1 day' from generate_series(1, ${count}::int)`.execute(db),
    );
  const left = async (): Promise<Record<string, number>> => {
    const { rows } = await asSuperuser(database, (db) =>
      sql<{ kind: string; count: number }>`
        select kind, count(*)::int as count from operations where kind like 'test %' group by kind`.execute(db),
    );
    return Object.fromEntries(rows.map(({ kind, count }) => [kind, count]));
  };
  for (const state of ['done', 'undone', 'abandoned'] as const) await add(800, 'test old', state, '31 days');
  await add(20, 'test recent', 'done', '29 days');
  for (const state of ['running', 'undoing', 'waiting', 'needs-person'] as const)
    await add(5, 'test unfinished', state, null);

  // One statement deletes no more than a page.
  expect(await sweepOperations(registry, 300)).toBe(300);
  expect(await left()).toEqual({ 'test old': 2_100, 'test recent': 20, 'test unfinished': 20 });
  // The job goes on until no page is full.
  await housekeeping.runNow('operations sweep');
  expect(await left()).toEqual({ 'test recent': 20, 'test unfinished': 20 });
}, 60_000);

it('counts unfinished operations without reading those that have ended', async () => {
  const own = await startServiceForTest();
  const { database } = own.config.registry.connection;
  await asSuperuser(database, async (db) => {
    await sql`insert into operations (id, kind, subject, state, ended_at)
      select gen_random_uuid(), 'remove', gen_random_uuid(), 'done', now() from generate_series(1, 20000)`.execute(db);
    await sql`insert into operations (id, kind, subject, state)
      select gen_random_uuid(), 'remove', gen_random_uuid(), 'waiting' from generate_series(1, 50)`.execute(db);
    await sql`analyze operations`.execute(db);
  });
  /** Explains each statement instead of executing it. */
  const explain: KyselyPlugin = {
    transformQuery: ({ node }) =>
      node.kind === 'RawNode'
        ? { ...node, sqlFragments: [`explain ${node.sqlFragments[0] ?? ''}`, ...node.sqlFragments.slice(1)] }
        : node,
    transformResult: ({ result }) => Promise.resolve(result),
  };
  const ages = { grace: 1, lateAfter: 1, overdueAfter: 1 };
  const plan = JSON.stringify(await countUnfinished(own.app.engine.registry.withPlugin(explain), ages));
  expect(plan).toMatch(/Scan.*using operations_(?:unfinished|due)|Bitmap Index Scan on operations_(?:unfinished|due)/);
  expect(plan).not.toContain('Seq Scan on operations');
  expect(await countUnfinished(own.app.engine.registry, { ...ages, lateAfter: 1e9, overdueAfter: 1e9 })).toMatchObject([
    { kind: 'remove', count: 50, states: { waiting: 50 }, late: 0, needsPerson: 0 },
  ]);
}, 60_000);

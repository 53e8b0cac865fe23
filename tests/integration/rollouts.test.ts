// The routes of rollouts. What workers do with them is in tests/faults/rollouts.test.ts.
import { sql, type Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { findOperatorByEmail } from '../../db/registry/operator-queries.js';
import type { ItemState, RolloutState } from '../../db/registry/rollouts/rollouts-table.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import {
  asSuperuser,
  OPERATOR,
  startService,
  type Answer,
  type PageOf,
  type Problem,
  type TestService,
} from '../support/app.js';
import { insertStoppedRollout, insertUnreached, OLDER, UNREACHED } from '../support/rollout-rows.js';

type Counts = Readonly<Record<ItemState | 'total' | 'percent', number>>;

interface Rollout {
  readonly id: string;
  readonly target: string;
  readonly state: RolloutState;
  readonly plan: object;
  readonly wave: number;
  readonly reason: string | null;
  readonly requestedBy: string | null;
  readonly createdAt: string;
  readonly finishedAt: string | null;
  readonly progress: Counts & {
    readonly waves: readonly (Counts & { readonly wave: number })[];
    readonly clusters: readonly (Counts & { readonly cluster: string })[];
  };
}

interface Item {
  readonly tenantId: string;
  readonly wave: number;
  readonly cluster: string;
  readonly state: ItemState;
  readonly error: string | null;
}

type Said<T> = Answer<T & Problem & { readonly detail?: string }>;

const TARGET = latestVersion(tenantMigrations);
const TENANTS = 5;

let service: TestService;
let registry: Kysely<Registry>;
let unreached: string[];
beforeAll(async () => {
  service = await startService();
  registry = service.app.engine.registry;
  unreached = await change(() => insertUnreached(registry, TENANTS));
});
afterAll(() => service.close());
beforeEach(() =>
  asSuperuser(service.config.registry.connection.database, (db) => sql`delete from rollouts`.execute(db)),
);

const change = <T>(work: (db: Kysely<Registry>) => Promise<T>): Promise<T> =>
  asSuperuser(service.config.registry.connection.database, (db) => work(db as Kysely<Registry>));

const send = <T = Rollout>(
  method: 'GET' | 'POST',
  url: string,
  options: { readonly body?: object; readonly token?: string; readonly key?: string } = {},
): Promise<Said<T>> =>
  service.send(method, `/rollouts${url}`, {
    token: options.token ?? service.operatorToken,
    ...(options.body && { body: options.body }),
    ...(options.key !== undefined && { headers: { 'idempotency-key': options.key } }),
  });

async function start(body: object = {}): Promise<Rollout> {
  const answer = await send('POST', '', { body });
  expect(answer.status, answer.text).toBe(201);
  return answer.body;
}

async function act(name: string, { id }: Pick<Rollout, 'id'>): Promise<Rollout> {
  const answer = await send('POST', `/${id}/${name}`);
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
}

async function audited(id: string): Promise<unknown[]> {
  const { rows } = await change((db) =>
    sql`select action, actor_kind as actor, target_kind as target, details from audit where target_id = ${id} order by at, id`.execute(
      db,
    ),
  );
  return rows;
}

const failItems = (id: string, count: number): Promise<unknown> =>
  change((db) =>
    sql`update rollout_items set state = 'failed', worker = null, attempts = 2, error = 'its table is locked'
      where rollout_id = ${id} and tenant_id in (select tenant_id from rollout_items where rollout_id = ${id} limit ${count})`.execute(
      db,
    ),
  );

describe('POST /rollouts', () => {
  it('records a rollout of this build, with an item for each tenant that is behind, and says where it is', async () => {
    await service.createTenant();
    const answer = await send('POST', '', { body: { canary: { count: 1 }, waves: [50], budget: 2 } });
    expect(answer.status, answer.text).toBe(201);
    const { id } = answer.body;
    expect(answer.headers.location).toBe(`/rollouts/${id}`);
    const operator = await findOperatorByEmail(registry, OPERATOR.email);
    expect(answer.body).toMatchObject({
      target: TARGET,
      state: 'running',
      plan: { canary: { count: 1 }, waves: [50, 100], budget: 2, pace: 'gentle' },
      wave: 0,
      tenantsCurrent: 1,
      reason: null,
      requestedBy: operator?.id,
      finishedAt: null,
      progress: { total: TENANTS, done: 0, failed: 0, percent: 0 },
    });
    expect(answer.body.progress.waves.map(({ wave, total }) => [wave, total])).toEqual([
      [0, 1],
      [1, 2],
      [2, 2],
    ]);
    expect(answer.body.progress.clusters).toMatchObject([{ cluster: UNREACHED, total: TENANTS }]);
    expect((await send('GET', `/${id}`)).body.id).toBe(id);
  });

  it('takes the default plan from an empty body, and any of the three canaries', async () => {
    const all = await start();
    expect(all.plan).toEqual({ canary: null, waves: [100], budget: null, pace: 'gentle' });
    expect(all.wave).toBe(1);
    for (const [canary, first] of [
      [{ count: 2 }, 2],
      [{ percent: 20 }, 1],
      [{ tenants: unreached.slice(0, 3) }, 3],
    ] as const) {
      await change((db) => sql`delete from rollouts`.execute(db));
      const { plan, progress } = await start({ canary });
      expect(plan).toMatchObject({ canary });
      expect(progress.waves.map(({ total }) => total)).toEqual([first, TENANTS - first]);
    }
  });

  it.each<[object, string, string]>([
    [{ canary: {} }, '/canary', 'must have exactly one of count, percent, tenants'],
    [{ canary: { count: 1, percent: 1 } }, '/canary', 'must have exactly one of count, percent, tenants'],
    [{ canary: { count: 0 } }, '/canary/count', 'must be at least 1'],
    [{ canary: { percent: 101 } }, '/canary/percent', 'must be at most 100'],
    [{ canary: { tenants: [] } }, '/canary/tenants', 'must have at least 1 item'],
    [{ waves: [0] }, '/waves/0', 'must be more than 0'],
    [{ waves: [101] }, '/waves/0', 'must be at most 100'],
    [{ budget: -1 }, '/budget', 'must be at least 0'],
    [{ target: TARGET }, '/target', 'is not known here'],
  ])('refuses %j', async (body, path, message) => {
    const { status, body: problem } = await send('POST', '', { body });
    expect([status, problem.code, problem.errors]).toEqual([400, 'invalid-request', [{ path, message }]]);
  });

  it('refuses a second one with 409 while one is running, paused or stopped', async () => {
    const first = await start();
    for (const prepare of [
      () => Promise.resolve(),
      () => act('pause', first),
      () => change((db) => sql`update rollouts set state = 'stopped', reason = 'as the test asks'`.execute(db)),
    ]) {
      await prepare();
      const second = await send('POST', '', { body: {} });
      expect([second.status, second.body.code]).toEqual([409, 'rollout-under-way']);
    }
    await act('abort', first);
    expect((await start()).id).not.toBe(first.id);
  });

  it('is 409 when no tenant is behind, and records nothing', async () => {
    await change((db) => sql`update tenants set schema_version = ${TARGET} where id = any(${unreached})`.execute(db));
    try {
      const refused = await send('POST', '', { body: {} });
      expect([refused.status, refused.body.code]).toEqual([409, 'nothing-behind']);
      expect((await send<PageOf<Rollout>>('GET', '')).body.data).toEqual([]);
    } finally {
      await change((db) => sql`update tenants set schema_version = ${OLDER} where id = any(${unreached})`.execute(db));
    }
  });

  it('happens once for two requests with one key, also if the answer was not stored', async () => {
    const body = { budget: 1 };
    const first = await send('POST', '', { body, key: 'start-once' });
    const again = await send('POST', '', { body, key: 'start-once' });
    expect([again.status, again.text]).toEqual([201, first.text]);
    expect(again.headers['idempotent-replayed']).toBe('true');
    await change((db) => sql`update request_answers set status = null, headers = null, body = null`.execute(db));
    const rebuilt = await send('POST', '', { body, key: 'start-once' });
    expect([rebuilt.status, rebuilt.body.id]).toEqual([201, first.body.id]);
    expect(rebuilt.headers.location).toBe(first.headers.location);
    const other = await send('POST', '', { body: { budget: 2 }, key: 'start-once' });
    expect([other.status, other.body.code]).toEqual([422, 'idempotency-key-reused']);
    expect(await audited(first.body.id)).toHaveLength(1);
  });
});

describe('the acts', () => {
  it('pause, resume and abort a rollout, each once, and are audited with the operator', async () => {
    const rollout = await start({ budget: 3 });
    expect((await act('pause', rollout)).state).toBe('paused');
    expect((await act('resume', rollout)).state).toBe('running');
    await act('pause', rollout);
    expect((await act('resume?budget=7', rollout)).plan).toMatchObject({ budget: 7 });
    const ended = await act('abort', rollout);
    expect(ended).toMatchObject({
      state: 'aborted',
      finishedAt: expect.any(String) as string,
      progress: { pending: 0, skipped: TENANTS, percent: 100 },
    });
    const rows = (await audited(rollout.id)) as { action: string; details: object }[];
    expect(rows.map(({ action }) => action)).toEqual([
      'rollout.started',
      'rollout.paused',
      'rollout.resumed',
      'rollout.paused',
      'rollout.resumed',
      'rollout.aborted',
    ]);
    for (const row of rows) expect(row).toMatchObject({ actor: 'operator', target: 'rollout' });
    expect(rows[0]?.details).toMatchObject({ target: TARGET, behind: TENANTS, budget: 3 });
    expect(rows[4]?.details).toMatchObject({ state: 'paused', budget: 7 });
  });

  it('are shown in the audit of operators, by rollout', async () => {
    const { id } = await start();
    const { body } = await service.send<PageOf<object>>('GET', `/operators/audit?target=${id}`, {
      token: service.operatorToken,
    });
    expect(body.data).toMatchObject([{ action: 'rollout.started', target: { kind: 'rollout', id } }]);
  });

  it('retry the failed tenants of a rollout that stopped', async () => {
    const rollout = await start({ budget: 0 });
    await failItems(rollout.id, 2);
    await change((db) => sql`update rollouts set state = 'stopped', reason = 'as the test asks'`.execute(db));
    expect(await act('retry', rollout)).toMatchObject({
      state: 'running',
      reason: null,
      progress: { failed: 0, total: TENANTS },
    });
    expect((await audited(rollout.id)).at(-1)).toMatchObject({ action: 'rollout.retried', details: { retried: 2 } });
  });

  it('are 409 in a state that does not allow them, and change nothing', async () => {
    const rollout = await start();
    const refuses = async (...names: readonly string[]): Promise<void> => {
      for (const name of names) {
        const { status, body } = await send('POST', `/${rollout.id}/${name}`);
        expect([name, status, body.code, body.detail]).toEqual([
          name,
          409,
          'rollout-state',
          expect.stringMatching(/\.$/),
        ]);
      }
    };
    await refuses('resume', 'retry');
    await act('pause', rollout);
    await refuses('pause', 'retry');
    await act('abort', rollout);
    await refuses('pause', 'resume', 'retry', 'abort');
    expect((await send('GET', `/${rollout.id}`)).body.state).toBe('aborted');
    expect(await audited(rollout.id)).toHaveLength(3);
  });

  it('refuse a budget that is no whole number', async () => {
    const rollout = await start();
    await act('pause', rollout);
    for (const budget of ['-1', 'many', '1.5', '']) {
      const { status, body } = await send('POST', `/${rollout.id}/resume?budget=${budget}`);
      expect([budget, status, body.code]).toEqual([budget, 400, 'invalid-request']);
    }
    expect((await send('GET', `/${rollout.id}`)).body.state).toBe('paused');
  });

  it('of an operator who was deactivated meanwhile are refused', async () => {
    const rollout = await start();
    await change((db) => sql`update operators set active = false`.execute(db));
    try {
      expect((await send('POST', `/${rollout.id}/abort`)).status).toBe(401);
    } finally {
      await change((db) => sql`update operators set active = true`.execute(db));
    }
    const { rows } = await change((db) =>
      sql<Rollout>`select state from rollouts where id = ${rollout.id}`.execute(db),
    );
    expect(rows).toEqual([{ state: 'running' }]);
  });
});

describe('what operators see', () => {
  it('is a list that begins with the newest, page by page, by state', async () => {
    const ids: string[] = [];
    for (let count = 0; count < 5; count += 1) {
      const rollout = await start();
      await act('abort', rollout);
      ids.unshift(rollout.id);
    }
    const seen: string[] = [];
    let cursor = '';
    do {
      const page: Said<PageOf<Rollout>> = await send('GET', `?limit=2${cursor === '' ? '' : `&cursor=${cursor}`}`);
      seen.push(...page.body.data.map(({ id }) => id));
      cursor = page.body.nextCursor ?? '';
    } while (cursor !== '');
    expect(seen).toEqual(ids);
    const running = await start();
    const listed = await send<PageOf<Rollout>>('GET', '?state=running');
    expect(listed.body.data.map(({ id }) => id)).toEqual([running.id]);
    expect(listed.body.data[0]).not.toHaveProperty('progress');
    const { nextCursor } = (await send<PageOf<Rollout>>('GET', '?limit=2')).body;
    const refused = await send<Problem>('GET', `?state=aborted&limit=2&cursor=${nextCursor ?? ''}`);
    expect([refused.status, refused.body.code]).toEqual([400, 'invalid-cursor']);
  });

  it('is every tenant of a rollout once, page by page, and those that failed with their error', async () => {
    const { id } = await start({ canary: { tenants: unreached.slice(0, 2) } });
    const seen: Item[] = [];
    let cursor = '';
    do {
      const page: Said<PageOf<Item>> = await send(
        'GET',
        `/${id}/items?limit=2${cursor === '' ? '' : `&cursor=${cursor}`}`,
      );
      expect(page.status, page.text).toBe(200);
      seen.push(...page.body.data);
      cursor = page.body.nextCursor ?? '';
    } while (cursor !== '');
    expect(seen.map(({ tenantId }) => tenantId).sort()).toEqual([...unreached].sort());
    expect(seen.map(({ wave }) => wave)).toEqual([0, 0, 1, 1, 1]);
    expect(seen[0]).toMatchObject({ cluster: UNREACHED, durationMs: null });
    await failItems(id, 2);
    const failed = await send<PageOf<Item>>('GET', `/${id}/items?state=failed`);
    expect(failed.body.data.map(({ state, error }) => [state, error])).toEqual([
      ['failed', 'its table is locked'],
      ['failed', 'its table is locked'],
    ]);
    const wrong = await send<Problem>('GET', `/${id}/items?state=lost`);
    expect([wrong.status, wrong.body.code]).toEqual([400, 'invalid-request']);
  });

  it('refuses the cursor of another rollout, or of another state', async () => {
    const first = await start();
    const { nextCursor } = (await send<PageOf<Item>>('GET', `/${first.id}/items?limit=1`)).body;
    await act('abort', first);
    const second = await start();
    for (const url of [`/${second.id}/items?limit=1`, `/${first.id}/items?limit=1&state=skipped`]) {
      const refused = await send<Problem>('GET', `${url}&cursor=${nextCursor ?? ''}`);
      expect([refused.status, refused.body.code]).toEqual([400, 'invalid-cursor']);
    }
  });

  it('is the progress in each state, and the reason of a stop, in GET /status too', async () => {
    const id = await change((db) => insertStoppedRollout(db, '9999_newer'));
    const { body } = await send('GET', `/${id}`);
    const one = { pending: 1, running: 1, done: 1, failed: 1, skipped: 1, total: 5, percent: 60 };
    expect(body).toMatchObject({ state: 'stopped', reason: 'as the test asks' });
    expect(body.progress).toEqual({
      ...one,
      waves: [{ wave: 1, ...one }],
      clusters: [{ cluster: UNREACHED, ...one }],
    });
    interface Status {
      readonly state: string;
      readonly reasons: readonly string[];
      readonly rollout: object | null;
    }
    const status = async (): Promise<Status> =>
      (await service.send<Status>('GET', '/status', { token: service.operatorToken })).body;
    await expect
      .poll(async () => (await status()).rollout, { timeout: 30_000 })
      .toMatchObject({ id, state: 'stopped' });
    const { state, reasons } = await status();
    expect(state).toBe('needs-person');
    expect(reasons).toContain(`The rollout ${id} has stopped: as the test asks.`);
  });

  it('has another ETag after each act, and is not sent again to a client that has it', async () => {
    const rollout = await start();
    const { id } = await act('pause', rollout);
    const first = await send('GET', `/${id}`);
    const etag = String(first.headers.etag);
    const known = await service.send('GET', `/rollouts/${id}`, {
      token: service.operatorToken,
      headers: { 'if-none-match': etag },
    });
    expect(known.status).toBe(304);
    await act('abort', rollout);
    expect((await send('GET', `/${id}`)).headers.etag).not.toBe(etag);
  });
});

const ROUTES = [
  ['GET', ''],
  ['GET', '/items'],
  ['POST', '/pause'],
  ['POST', '/resume'],
  ['POST', '/retry'],
  ['POST', '/abort'],
] as const;

describe('every route of a rollout', () => {
  it('is 404 for one that does not exist, and 400 for a wrong id', async () => {
    for (const [method, suffix] of ROUTES) {
      const unknown = await send<Problem>(method, `/${randomUUID()}${suffix}`);
      expect([suffix, unknown.status, unknown.body.code]).toEqual([suffix, 404, 'not-found']);
      const wrong = await send<Problem>(method, `/1${suffix}`);
      expect([suffix, wrong.status, wrong.body.code]).toEqual([suffix, 400, 'invalid-request']);
    }
  });

  it('is for operators only', async () => {
    const { adminToken: token } = await service.createTenant();
    const { id } = await start();
    const all = [
      ['GET', ''],
      ['POST', ''],
      ...ROUTES.map(([method, suffix]) => [method, `/${id}${suffix}`] as const),
    ] as const;
    for (const [method, url] of all) {
      const body = method === 'POST' && url === '' ? { body: {} } : {};
      expect([url, (await service.send(method, `/rollouts${url}`, body)).status]).toEqual([url, 401]);
      expect([url, (await send(method, url, { token, ...body })).status]).toEqual([url, 403]);
    }
    expect((await send('GET', `/${id}`)).body.state).toBe('running');
  });
});

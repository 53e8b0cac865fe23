// The data of a run: two permanent tenants, a third with an expendable admin, users with tokens, and the ids and cursors of
// earlier answers.
import { sql } from 'kysely';
import { secondPlace, type TestCluster } from '../support/cluster.js';
import { recordStoppedOperations } from '../support/operations.js';
import { endRollout, insertStoppedRollout, insertUnreached } from '../support/rollout-rows.js';
import type { TestService, TestTenant } from '../support/service.js';
import { ADMIN, beginGrant, beginSession, OPERATOR } from '../support/service.js';
import { PLACEHOLDER, type Actor, type Draft } from './requests.js';
import type { Hints } from './values.js';

/** A request as it is sent. */
export interface Sent {
  readonly method: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | undefined;
}

export interface World {
  /** Values that are valid, or that conflict with each other. */
  readonly hints: Hints;
  /** Replaces the placeholders of a request. Objects that the run depends on are never changed or removed. */
  resolve(draft: Draft): Sent;
  /** Collects ids and cursors from a successful answer, and repairs whatever the next request needs. */
  learn(draft: Draft, sent: Sent, answer: { readonly status: number; readonly body: unknown }): Promise<void>;
}

/** The number of ids and cursors that are kept of a kind; the oldest is dropped first. */
const MAX_KNOWN = 200;

/** Operations that can be retried and abandoned. */
const OPERATIONS = 100;

/** The states of the rollout that requests meet, in turn: of those under way there is one at a time. */
const ROLLOUT_STATES = ['stopped', 'running', 'paused', 'ended'] as const;

/** Few enough that some requests conflict. */
const EMAILS = Array.from({ length: 12 }, (_, index) => `Fuzz-${index}@Example.com`);

/** An id that no object has. */
const NO_ID = '01900000-0000-7000-8000-00000000ffff';

/** Makes the tenants and users that a run needs. */
export async function createWorld(cluster: TestCluster, service: TestService): Promise<World> {
  const home = await service.createTenant('fuzz-home');
  const elsewhere = await service.createTenant('fuzz-elsewhere');
  const member = await service.createUser(home, 'fuzz-member@example.com');
  const idOf = async (path: string, token: string, body: object): Promise<string> => {
    const made = await service.send<{ id: string }>('POST', path, { token, body });
    if (made.status !== 201) throw new Error(`POST ${path} answered ${made.status}: ${made.text}`);
    return made.body.id;
  };
  const known = {
    product: [await idOf('/products', home.adminToken, { name: 'Lamp', price: '12.50', stockQuantity: 5 })],
    role: [await idOf('/roles', home.adminToken, { name: 'fuzz-role', permissions: ['users:read'] })],
    user: [await idOf('/users', home.adminToken, { ...ADMIN, email: 'fuzz-user@example.com' })],
    tenant: [(await service.createTenant('fuzz-spare')).id],
    deleted: [] as string[],
    cluster: [] as string[],
    operation: await recordStoppedOperations(service, OPERATIONS),
    cursor: [] as string[],
    page: [] as string[],
  };
  /** What was created besides, by the path of its collection. */
  const others = new Map<string, string[]>();
  const listed = await service.send<{ data: { id: string }[] }>('GET', '/clusters', { token: service.operatorToken });
  const defaultCluster = listed.body.data[0]?.id ?? NO_ID;
  const { registry } = service.app.engine;
  let turns = 0;
  /** Gives the next request for rollouts another state of the rollout: after each act, the other acts would be refused. */
  async function turnRollout(): Promise<void> {
    const state = ROLLOUT_STATES[turns % ROLLOUT_STATES.length];
    turns += 1;
    if (state === 'ended') {
      // Tenants for the next rollout. They are made during the run, because their passwords cannot be read.
      if (turns <= ROLLOUT_STATES.length) await insertUnreached(registry, 2);
      return endRollout(registry);
    }
    const id = await insertStoppedRollout(registry, '9999_fuzz');
    await sql`update rollouts set state = ${state} where id = ${id}`.execute(registry);
    others.set('/rollouts', [id]);
  }
  await turnRollout();
  let renewals = 0;
  const renew = (): Promise<TestTenant> => service.createTenant(`fuzz-expendable-${(renewals += 1)}`);
  let expendable = await renew();
  /** If only the admin's session has ended, a new session suffices: another tenant would take longer. */
  async function revive(tenant: TestTenant): Promise<TestTenant> {
    const account = { kind: 'user', tenantId: tenant.id, userId: tenant.adminId } as const;
    const adminToken = await beginSession(service.app, account).catch(() => undefined);
    return adminToken === undefined ? replace(tenant) : { ...tenant, adminToken };
  }
  function replace({ id }: TestTenant): Promise<TestTenant> {
    remember('tenant', id);
    return renew();
  }

  const people = (): Record<Actor, { token: string | undefined; self: string; own: string }> => ({
    admin: { token: home.adminToken, self: home.adminId, own: home.id },
    operator: { token: service.operatorToken, self: home.adminId, own: home.id },
    member: { token: member.token, self: member.id, own: home.id },
    expendable: { token: expendable.adminToken, self: expendable.adminId, own: expendable.id },
    stranger: { token: elsewhere.adminToken, self: elsewhere.adminId, own: elsewhere.id },
    nobody: { token: undefined, self: home.adminId, own: home.id },
    forger: { token: forge(home.adminToken), self: home.adminId, own: home.id },
  });

  function meant(kind: string, index: number, { actor, operation }: Draft): string {
    if (kind === 'page') {
      const pages = known.page.filter((url) => url.startsWith(`${operation.path}?`));
      return pages[index % pages.length]?.slice(operation.path.length) ?? '';
    }
    if (kind === 'other') {
      const ids = others.get(collectionOf(operation.path)) ?? [];
      return ids[index % ids.length] ?? NO_ID;
    }
    if (kind === 'session') return service.app.tokens.read(expendable.adminToken).principal.sessionId;
    const { self, own } = people()[actor];
    // An operator could suspend a tenant that all others need, and an admin could lock itself out.
    const harmless = operation.method === 'GET' || actor === 'expendable';
    if (kind === 'self' && harmless) return self;
    if (kind === 'own' && actor !== 'operator') return own;
    if (kind === 'own' && operation.method === 'GET') return own;
    if (kind === 'cluster') {
      // If the default cluster accepted no tenants, none could be created any more.
      const some = operation.method === 'GET' ? [defaultCluster, ...known.cluster] : known.cluster;
      return some[index % some.length] ?? NO_ID;
    }
    // Few tenants are deleted, so that requests for deleted ones would rarely meet one.
    if (/\/(?:restore|purge)$/.test(operation.path) && known.deleted.length > 0)
      return known.deleted[index % known.deleted.length] ?? NO_ID;
    const ids =
      {
        product: known.product,
        role: known.role,
        user: known.user,
        self: known.user,
        tenant: known.tenant,
        own: known.tenant,
        operation: known.operation,
      }[kind] ?? known.cursor;
    return ids[index % ids.length] ?? NO_ID;
  }

  const remember = (kind: keyof typeof known, value: unknown): void => {
    if (typeof value !== 'string' || known[kind].includes(value)) return;
    known[kind].push(value);
    if (known[kind].length > MAX_KNOWN) known[kind].shift();
  };
  const forget = (kind: keyof typeof known, value: string | undefined): void => {
    known[kind] = known[kind].filter((each) => each !== value);
  };

  /** Only the expendable admin ends sessions: the other sessions are needed until the end. */
  const askedBy = ({ actor, operation }: Draft): Actor =>
    /\/(?:logout|logout-all|password|sessions)\b/.test(operation.path) &&
    operation.method !== 'GET' &&
    people()[actor].token !== undefined &&
    actor !== 'forger'
      ? 'expendable'
      : actor;
  const account = { kind: 'user', tenantId: home.id, userId: home.adminId } as const;
  const { refreshToken } = await beginGrant(service.app, account);
  const { user: provisionerUser, password: provisionerPassword } = cluster.provisioner;
  const second = { ...secondPlace(cluster), provisionerUser, provisionerPassword, tls: 'off', accepting: false };

  return {
    hints: {
      // Valid during its grace time, and detected as reused after that.
      'POST /auth/refresh': [{ refreshToken }],
      'POST /auth/login': [home, elsewhere].map(({ id }) => ({
        tenant: id,
        email: ADMIN.email,
        password: ADMIN.password,
      })),
      'POST /auth/operator/login': [OPERATOR],
      'POST /tenants': [
        { name: 'Fuzz', slug: 'fuzz-made-1', admin: ADMIN },
        { name: 'Fuzz', slug: 'fuzz-made-2', admin: ADMIN, clusterId: defaultCluster },
        { name: 'Fuzz', slug: 'fuzz-made-3', admin: ADMIN, clusterId: '~cluster.0~' },
        { name: 'Fuzz', slug: 'fuzz-made-4', admin: ADMIN, region: 'fuzz-region' },
        { name: 'Fuzz', admin: ADMIN, adopt: { clusterId: defaultCluster, database: 'postgres' } },
      ],
      'POST /clusters': [
        { ...second, name: 'fuzz-second', connectionBudget: 20 },
        { ...second, name: 'fuzz-second', connectionBudget: 100, region: 'fuzz-region' },
        { ...second, name: 'fuzz-second', connectionBudget: 20, provisionerPassword: 'fuzz-wrong-password' },
      ],
      'POST /rollouts': [
        {},
        { pace: 'full' },
        { canary: { percent: 50 }, budget: 0 },
        { canary: { tenants: [NO_ID] }, waves: [1, 0.5] },
      ],
      'PATCH /clusters/{id}': [
        { name: 'fuzz-renamed', weight: 7 },
        { ...secondPlace(cluster), tls: 'off', provisionerPassword },
        { connectionBudget: 30, standbyTarget: 1, region: 'fuzz-region' },
        { host: '169.254.169.254', provisionerPassword },
      ],
      clusterId: [defaultCluster, NO_ID],
      host: [second.host],
      port: [second.port],
      provisionerUser: [provisionerUser],
      provisionerPassword: [provisionerPassword],
      tenant: ['fuzz-home', home.id, 'fuzz-spare', 'no-such-tenant'],
      email: [ADMIN.email, OPERATOR.email, member.email, ...EMAILS],
      password: [ADMIN.password, OPERATOR.password, member.password],
      currentPassword: [ADMIN.password, member.password, OPERATOR.password],
      newPassword: ['a phrase of the fuzz', 'another phrase of the fuzz', 'too short'],
      roles: [['admin'], ['member'], ['member', 'admin'], ['no-such-role'], ['fuzz-role']],
      role: ['admin', 'member'],
      sku: ['SKU-1', 'SKU-2', 'SKU-3', null],
      category: ['lamps', 'Lamps', null],
      slug: ['fuzz-spare', 'fuzz-home', 'fuzz-slug-1', 'fuzz-slug-2'],
      cursor: [0, 1, 2, 3, 4, 5, 6, 7].map((index) => `~cursor.${index * 31}~`),
      search: ['a', '%', '_', '\\', 'Lamp', 'fuzz'],
      limit: ['1', '1', '2', '100', '007', '0'],
      delta: [1, -1, 5, 2_147_483_647, -2_147_483_648, 0],
      limits: [
        {},
        { users: 1_000_000, products: null },
        { requestsPerSecond: 100_000, connections: 400 },
        { users: 0 },
        { products: 1.5 },
        { storageBytes: '1' },
        { cpu: 1 },
      ],
      poolOptions: [
        {},
        { max: 1 },
        { max: null },
        { max: 100, acquireTimeout: 60_000, timeout: 600_000, idleTimeoutMillis: 3_600_000 },
        { max: 101 },
        { max: 1.5 },
        { max: '5' },
        { timeout: 99 },
        { connectionString: 'x' },
        { ssl: false },
      ],
    },

    resolve(draft) {
      const { token } = people()[askedBy(draft)];
      const filled = (text: string): string =>
        text.replaceAll(PLACEHOLDER, (_, kind: string, index: string) => meant(kind, Number(index), draft));
      return {
        method: draft.operation.method,
        url: filled(draft.url),
        headers: { ...draft.headers, ...(token !== undefined && { authorization: `Bearer ${token}` }) },
        body: draft.body === undefined ? undefined : Buffer.from(filled(draft.body), draft.encoding),
      };
    },

    async learn(draft, sent, { status, body }) {
      const { operation } = draft;
      const told = (body ?? {}) as Readonly<Record<string, unknown>>;
      const kind = (
        {
          products: 'product',
          roles: 'role',
          users: 'user',
          tenants: 'tenant',
          clusters: 'cluster',
          operations: 'operation',
        } as const
      )[operation.tag];
      if (kind && status === 201) remember(kind, told['id']);
      if (operation.tag === 'rollouts') await turnRollout();
      else if (!kind && status === 201 && typeof told['id'] === 'string') {
        const collection = collectionOf(operation.path);
        others.set(collection, [...(others.get(collection) ?? []), told['id']].slice(-MAX_KNOWN));
      }
      const id = sent.url.split(/[/?]/).at(2);
      const removes = operation.method === 'DELETE' && status === 204;
      if (kind === 'tenant') {
        // A deleted tenant can still be restored or purged.
        if (removes) remember('deleted', id);
        if (operation.path.endsWith('/restore') && status === 200) forget('deleted', id);
        if (operation.path.endsWith('/purge') && status === 204)
          for (const each of [kind, 'deleted'] as const) forget(each, id);
      } else if (kind && removes) forget(kind, id);
      // Most have not ended, so that they can be retried and abandoned.
      if (operation.path.endsWith('/abandon') && status === 200) forget('operation', id);
      if (status === 200 && typeof told['nextCursor'] === 'string') {
        remember('cursor', told['nextCursor']);
        const [path = '', query = ''] = sent.url.split('?');
        const rest = query.split('&').filter((pair) => pair !== '' && !pair.startsWith('cursor='));
        remember('page', `${path}?${[...rest, `cursor=${told['nextCursor']}`].join('&')}`);
      }
      // Its budget may be too small for the permanent ones.
      if (kind === 'cluster' && told['accepting'] === true && told['isDefault'] === false)
        await service.send('PATCH', `/clusters/${String(told['id'])}`, {
          token: service.operatorToken,
          body: { accepting: false },
        });
      // The admin has removed, deactivated or demoted itself, or changed its password, as it may.
      const changed = operation.path === '/auth/password' && status === 204;
      const locked = status === 401 || (['users', 'roles'].includes(operation.tag) && told['code'] === 'forbidden');
      if (askedBy(draft) !== 'expendable' || !(locked || changed)) return;
      expendable = status === 401 ? await revive(expendable) : await replace(expendable);
    },
  };
}

/** `/orders` of `/orders/{id}`. */
function collectionOf(path: string): string {
  return path.split('/{')[0] ?? '';
}

/** A token with a wrong signature. */
function forge(token: string): string {
  const [head = '', claims = ''] = token.split('.');
  return `${head}.${claims}.${'A'.repeat(43)}`;
}

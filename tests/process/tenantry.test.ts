// The `tenantry` command beside a service, on its databases: within this process, and on a terminal, migrate, serve and the help as
// processes.
import { randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import { deactivateOperator, findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import { findTenant, findTenantBySlug, recordOlderSchema } from '../../db/registry/tenant-queries.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { asSuperuser, createRegistry, startService, OPERATOR, urlOf, type TestService } from '../support/app.js';
import { isMissing, skipNote } from '../support/programs.js';
import { startSecondCluster } from '../support/second-cluster.js';
import { build, isRunning, makeDataDir, startProcess } from '../support/service-process.js';
import { environmentFor, tenantry, tenantryOnTerminal, tenantryProcess, type Ran } from '../support/tenantry.js';

const LONG = { timeout: 180_000 };
const PASSWORD = 'a password by a file';

let service: TestService;
let data: Awaited<ReturnType<typeof makeDataDir>>;
let env: Record<string, string>;
let passwordFile: string;
let operatorId: string;

beforeAll(async () => {
  await build();
  data = await makeDataDir();
  service = await startService();
  env = environmentFor(service.config.registry.connection.database, data.dir);
  passwordFile = path.join(data.dir, 'password');
  await writeFile(passwordFile, `${PASSWORD}\n`);
  operatorId = (await findOperatorByEmail(service.app.engine.registry, OPERATOR.email))?.id ?? '';
}, 180_000);
afterAll(async () => {
  await service.close();
  await data.remove();
});

/** Runs a command that must write no stack, whatever it says. */
async function run(args: readonly string[], input?: string, more: Readonly<Record<string, string>> = {}): Promise<Ran> {
  const ran = await tenantry(args, { ...env, ...more }, input);
  expect(ran.stdout + ran.stderr).not.toMatch(/^\s+at .*[:(]\d+|node:internal/m);
  return ran;
}

/** The JSON of a command that must succeed. */
async function json<T = Record<string, unknown>>(...args: readonly string[]): Promise<T> {
  const ran = await run([...args, '--json']);
  expect({ code: ran.code, stderr: ran.stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(ran.stdout) as T;
}

interface AuditRow {
  readonly action: string;
  readonly actor: string | null;
  readonly client: string | null;
}

async function auditOf(targetId: string, registry = service.config.registry.connection.database): Promise<AuditRow[]> {
  return asSuperuser(registry, async (db) => {
    const { rows } = await sql<AuditRow>`
      select action, actor_id as actor, user_agent as client from audit
        where target_id = ${targetId} and user_agent like 'tenantry %' order by at, id`.execute(db);
    return rows;
  });
}

const create = (name: string, slug: string): string[] => [
  ...['tenants', 'create', name, '--slug', slug, '--admin-email', 'ada@example.com'],
  ...['--admin-first-name', 'Ada', '--admin-last-name', 'Admin'],
];

async function signIn(tenant: string, password: string): Promise<number> {
  const body = { tenant, email: 'ada@example.com', password };
  return (await service.send('POST', '/auth/login', { body })).status;
}

describe('the command', () => {
  it(
    'shows its help and its version without loading what serves: no database driver, no hashing, no HTTP',
    LONG,
    async () => {
      const shown =
        'import m from "node:module"; process.on("exit", () => process.stderr.write(Object.keys(m._cache).join("\\n")))';
      for (const args of [['--help'], ['tenants', 'create', '--help'], ['--version']]) {
        const ran = await tenantryProcess(args, {}, '', [
          '--import',
          `data:text/javascript,${encodeURIComponent(shown)}`,
        ]);
        expect(ran.code).toBe(0);
        expect(ran.stdout).toMatch(/Usage: tenantry|^\d+\.\d+\.\d+\n$/);
        expect(ran.stderr).toContain('commander');
        expect(ran.stderr).not.toMatch(/node_modules\/(?:pg|argon2|fastify|kysely|ioredis|pino)\//);
      }
    },
  );

  it('says in a sentence that a setting is wrong, or that the registry is away, and ends with 1', LONG, async () => {
    expect(await run(['tenants', 'list'], '', { DATABASE_URL: 'nonsense' })).toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringContaining('DATABASE_URL') as string,
    });
    const away = { DATABASE_URL: 'postgres://nobody:secret-word@127.0.0.1:1/none' };
    const ran = await run(['tenants', 'list', '--json'], '', away);
    expect(ran).toMatchObject({ code: 1, stdout: '' });
    expect(JSON.parse(ran.stderr)).toMatchObject({
      error: { exitCode: 1, message: expect.stringContaining('127.0.0.1:1') as string },
    });
    expect(ran.stderr).not.toContain('secret-word');
  });

  it('is no replica, leases no slots of tenants, and runs no jobs', LONG, async () => {
    const registry = await createRegistry();
    const alone = environmentFor(registry, data.dir);
    const made = await tenantry(['operators', 'create', 'first@example.com', '--password-file', passwordFile], alone);
    expect(made).toMatchObject({ code: 0, stderr: '' });
    const tenant = await tenantry([...create('Alone', 'alone'), '--password-file', passwordFile], alone);
    expect(tenant).toMatchObject({ code: 0, stderr: '' });
    const { rows } = await asSuperuser(registry, (db) =>
      sql<{ replicas: number; leases: number; jobs: number }>`
        select (select count(*)::int from replicas) as replicas, (select count(*)::int from jobs) as jobs,
          (select count(*)::int from slot_leases where kind = 'tenants') as leases`.execute(db),
    );
    expect(rows).toEqual([{ replicas: 0, jobs: 0, leases: 0 }]);
    // No operator exists who could create the first one.
    const { rows: audit } = await asSuperuser(registry, (db) =>
      sql<AuditRow>`
        select action, actor_kind as actor, user_agent as client from audit order by at, id`.execute(db),
    );
    expect(audit).toEqual([
      { action: 'operator.created', actor: 'none', client: 'tenantry operators create' },
      { action: 'tenant.created', actor: 'operator', client: 'tenantry tenants create' },
    ]);
  });
});

describe('tenantry tenants', () => {
  it(
    'creates a tenant with a password from a file, standard input or the environment, whose admin signs in',
    LONG,
    async () => {
      expect(await run([...create('By a file', 'by-file'), '--password-file', passwordFile])).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(/^slug +by-file\nname +By a file\n/) as string,
      });
      expect((await run([...create('By stdin', 'by-stdin'), '--stdin'], 'a password by stdin\n')).code).toBe(0);
      const variable = { TENANTRY_PASSWORD: 'a password by a variable' };
      expect((await run(create('By variable', 'by-variable'), '', variable)).code).toBe(0);
      const statuses = await Promise.all([
        signIn('by-file', PASSWORD),
        signIn('by-stdin', 'a password by stdin'),
        signIn('by-variable', variable.TENANTRY_PASSWORD),
      ]);
      expect(statuses).toEqual([200, 200, 200]);
    },
  );

  it(
    'makes a password up only when asked, and answers as the API does, with the password this once',
    LONG,
    async () => {
      const made = await json<{ id: string; adminPassword: string }>(
        ...create('Made up', 'made-up'),
        '--make-password',
      );
      expect(await signIn('made-up', made.adminPassword)).toBe(200);
      const { adminPassword: _once, ...tenant } = made;
      const api = await service.send('GET', `/tenants/${made.id}`, { token: service.operatorToken });
      expect(tenant).toEqual(api.body);
      expect(await json('tenants', 'show', 'made-up')).toEqual(api.body);
      const listed = await service.send<{ data: object[] }>('GET', '/tenants?search=made-up', {
        token: service.operatorToken,
      });
      expect(await json('tenants', 'list', '--search', 'made-up')).toEqual({ data: listed.body.data, more: false });
      expect(await auditOf(made.id)).toEqual([
        { action: 'tenant.created', actor: operatorId, client: 'tenantry tenants create' },
      ]);
    },
  );

  it.each([
    ['no source of a password and no terminal', [], 2, 'No terminal can show a new password here'],
    ['two sources', ['--stdin', '--make-password'], 2, 'The password is given twice'],
    ['a weak password', ['--stdin'], 2, 'The password is one of the most common passwords'],
    ['a wrong address', ['--make-password', '--admin-email', 'nonsense'], 2, '--admin-email must be an e-mail address'],
    ['a limit that is none', ['--make-password', '--set-limit', 'cows=3'], 2, '--set-limit cows is not a limit'],
    ['a cluster that is not there', ['--make-password', '--cluster', 'moon'], 4, 'There is no cluster "moon".'],
    ['a database without its cluster', ['--make-password', '--adopt', 'db'], 2, '--adopt needs --cluster'],
    ['a slug that is taken', ['--make-password', '--slug', 'taken'], 4, 'The slug is taken.'],
  ])('refuses %s in words', LONG, async (what, more, code, sentence) => {
    if (what.includes('taken') && !(await findTenantBySlug(service.app.engine.registry, 'taken')))
      await service.createTenant('taken');
    const ran = await run([...create('Refused', 'refused'), ...more], 'password1234');
    expect({ code: ran.code, stdout: ran.stdout }).toEqual({ code, stdout: '' });
    expect(ran.stderr).toContain(sentence);
    expect(ran.stderr).not.toContain('password1234');
    expect(await findTenantBySlug(service.app.engine.registry, 'refused')).toBeUndefined();
  });

  it(
    'leads a tenant through its whole life, each act audited as its operator, and effective in the service',
    LONG,
    async () => {
      const { id, adminToken } = await service.createTenant('whole-life');
      const use = async (): Promise<number> => (await service.send('GET', '/users', { token: adminToken })).status;
      const status = async (act: string, ...more: string[]): Promise<unknown> =>
        (await json<{ status: string }>('tenants', act, 'whole-life', ...more)).status;
      expect(await use()).toBe(200);
      expect(await status('suspend')).toBe('suspended');
      expect(await use()).toBe(403);
      expect(await status('resume')).toBe('active');
      expect(await use()).toBe(200);
      expect(await status('delete', '--yes')).toBe('deleted');
      expect(await status('restore', '--as', OPERATOR.email.toUpperCase())).toBe('active');
      expect(await status('delete', '--yes')).toBe('deleted');
      expect(await json('tenants', 'purge', id, '--yes')).toEqual({ id, slug: 'whole-life', purged: true });
      expect(await run(['tenants', 'show', 'whole-life'])).toEqual({
        code: 4,
        stdout: '',
        stderr: 'There is no tenant "whole-life".\n',
      });
      const acts = ['suspend', 'resume', 'delete', 'restore', 'delete', 'purge'];
      expect(await auditOf(id)).toEqual(
        ['suspended', 'resumed', 'deleted', 'restored', 'deleted', 'purged'].map((done, index) => ({
          action: `tenant.${done}`,
          actor: operatorId,
          client: `tenantry tenants ${acts[index] ?? ''}`,
        })),
      );
    },
  );

  it('refuses what the state of a tenant does not allow, with 4 and the reason', LONG, async () => {
    await service.createTenant('stays');
    const ran = await run(['tenants', 'purge', 'stays', '--yes', '--json']);
    expect(ran).toMatchObject({ code: 4, stdout: '' });
    expect(JSON.parse(ran.stderr)).toMatchObject({ error: { exitCode: 4, code: 'tenant-state' } });
  });

  it('asks before it deletes or purges, and without a terminal refuses until --yes is given', LONG, async () => {
    await service.createTenant('asked');
    const ran = await run(['tenants', 'delete', 'asked']);
    expect(ran).toMatchObject({ code: 2, stdout: '' });
    expect(ran.stderr).toMatch(/^Delete the tenant "asked"\? .* Give --yes/);
    expect((await findTenantBySlug(service.app.engine.registry, 'asked'))?.status).toBe('active');
  });

  it('lists as a table, the newest first, cut off with a note beside the result', LONG, async () => {
    await service.createTenant('listed-one');
    await service.createTenant('listed-two');
    const ran = await run(['tenants', 'list', '--search', 'listed', '--limit', '1']);
    expect(ran).toMatchObject({ code: 0, stderr: 'There are more than 1: raise --limit, or narrow the list.\n' });
    expect(ran.stdout).toMatch(
      /^SLUG +NAME +STATUS +CLUSTER +SCHEMA +CREATED +ID\nlisted-two +Tenant listed-two +active .*\n$/,
    );
  });
});

describe('the operator who acts', () => {
  it(
    'must be named if there are several, by --as or by the environment, and must be there and active',
    LONG,
    async () => {
      const registry = await createRegistry();
      const own = environmentFor(registry, data.dir);
      const act = (more: readonly string[], variables: Readonly<Record<string, string>> = {}): Promise<Ran> =>
        tenantry(['clusters', 'drain', 'nothing', ...more], { ...own, ...variables });
      const add = async (email: string, ...more: string[]): Promise<void> => {
        const ran = await tenantry(['operators', 'create', email, '--password-file', passwordFile, ...more], own);
        expect(ran).toMatchObject({ code: 0, stderr: '' });
      };
      await add('one@example.com');
      await add('two@example.com');
      await add('three@example.com', '--as', 'one@example.com');
      const several = await tenantry(
        ['operators', 'reset-password', 'two@example.com', '--password-file', passwordFile],
        own,
      );
      expect(several).toMatchObject({ code: 2, stdout: '' });
      expect(several.stderr).toContain('one@example.com, three@example.com, two@example.com');
      // The cluster is looked up before the operator, who is not known here.
      expect(await act(['--as', 'one@example.com'])).toMatchObject({
        code: 4,
        stderr: 'There is no cluster "nothing".\n',
      });

      const deactivate = (email: string, as: string): Promise<Ran> =>
        tenantry(['operators', 'deactivate', email, '--yes'], { ...own, TENANTRY_OPERATOR: as });
      expect(await deactivate('two@example.com', 'zero@example.com')).toMatchObject({
        code: 4,
        stderr: 'There is no operator with the e-mail address "zero@example.com".\n',
      });
      expect(await deactivate('two@example.com', 'one@example.com')).toMatchObject({ code: 0 });
      expect(await deactivate('three@example.com', 'two@example.com')).toMatchObject({
        code: 4,
        stderr: 'The operator two@example.com is not active.\n',
      });
      expect(await deactivate('three@example.com', 'three@example.com')).toMatchObject({ code: 0 });
      const last = await deactivate('one@example.com', 'one@example.com');
      expect(last).toMatchObject({ code: 4, stderr: expect.stringContaining('is the last active operator') as string });

      const { data: listed } = JSON.parse((await tenantry(['operators', 'list', '--json'], own)).stdout) as {
        data: { id: string; email: string; active: boolean }[];
      };
      expect(listed.map(({ email, active }) => [email, active])).toEqual([
        ['one@example.com', true],
        ['three@example.com', false],
        ['two@example.com', false],
      ]);
      const idOf = (email: string): string => listed.find((each) => each.email === email)?.id ?? '';
      expect(await auditOf(idOf('two@example.com'), registry)).toEqual([
        { action: 'operator.created', actor: idOf('one@example.com'), client: 'tenantry operators create' },
        { action: 'operator.updated', actor: idOf('one@example.com'), client: 'tenantry operators deactivate' },
      ]);
    },
  );

  it('cannot act any more when it was deactivated after the command began', LONG, async () => {
    const { id: tenantId } = await service.createTenant('too-late');
    const { registry, lifecycle } = service.app.engine;
    const email = 'too-late@example.com';
    const id = (await insertOperator(registry, { email, passwordHash: 'none' })) ?? '';
    await deactivateOperator(registry, id);
    const origin = { actor: { kind: 'operator', id, atCommandLine: true } } as const;
    await expect(lifecycle.suspend(tenantId, origin)).rejects.toThrow('The operator is not active.');
    // An origin that says nothing of the command line needs a session.
    const operator = { actor: { kind: 'operator', id: operatorId } } as const;
    await expect(lifecycle.suspend(tenantId, operator)).rejects.toThrow('The session of this access token has ended.');
    expect((await findTenantBySlug(registry, 'too-late'))?.status).toBe('active');
  });

  it('who is deactivated has no session in the service any more', LONG, async () => {
    const email = 'leaves@example.com';
    await json('operators', 'create', email, '--password-file', passwordFile);
    const login = await service.send('POST', '/auth/operator/login', { body: { email, password: PASSWORD } });
    const token = String(login.body['accessToken']);
    expect((await service.send('GET', '/tenants', { token })).status).toBe(200);
    const done = await json('operators', 'deactivate', email, '--yes', '--as', OPERATOR.email);
    expect(done).toMatchObject({ email, active: false, sessionsEnded: 1 });
    expect((await service.send('GET', '/tenants', { token })).status).toBe(401);
    expect((await service.send('POST', '/auth/operator/login', { body: { email, password: PASSWORD } })).status).toBe(
      401,
    );
  });

  it('can get a new password, which ends its sessions', LONG, async () => {
    const email = 'forgets@example.com';
    await json('operators', 'create', email, '--password-file', passwordFile);
    await service.send('POST', '/auth/operator/login', { body: { email, password: PASSWORD } });
    const reset = await json<{ id: string; password: string }>(
      ...['operators', 'reset-password', email, '--make-password', '--as', OPERATOR.email],
    );
    expect(reset).toMatchObject({ email, sessionsEnded: 1 });
    const login = await service.send('POST', '/auth/operator/login', { body: { email, password: reset.password } });
    expect(login.status).toBe(200);
    expect((await auditOf(reset.id)).at(-1)).toEqual({
      action: 'operator.updated',
      actor: operatorId,
      client: 'tenantry operators reset-password',
    });
    // The others go on with one operator.
    await json('operators', 'deactivate', email, '--yes', '--as', OPERATOR.email);
    expect((await run(['operators', 'create', email, '--make-password'])).stderr).toContain('e-mail address is taken');
  });
});

describe('tenantry clusters', () => {
  it('adds, lists, checks and drains a server', LONG, async () => {
    const second = await startSecondCluster(`cli_${randomBytes(3).toString('hex')}`);
    onTestFinished(() => second.stop());
    const { name, host, port, provisionerUser, provisionerPassword } = second.body;
    const secret = path.join(data.dir, 'provisioner');
    await writeFile(secret, provisionerPassword);
    const add = [
      ...['clusters', 'add', name, '--host', host, '--port', String(port), '--tls', 'off'],
      ...['--provisioner-user', provisionerUser, '--connection-budget', '20', '--password-file', secret],
    ];
    const elsewhere = await run(add.with(add.indexOf('--host') + 1, '192.0.2.1'));
    expect(elsewhere).toMatchObject({ code: 4, stderr: expect.stringContaining('CLUSTER_HOSTS') as string });
    const added = await json<{ id: string; name: string }>(...add);
    expect(added).toMatchObject({ name, host, port, connectionBudget: 20, warnings: expect.any(Array) as string[] });
    expect(JSON.stringify(added)).not.toContain(provisionerPassword);
    expect((await run([...add])).code).toBe(4);

    const { data: listed } = await json<{ data: { id: string }[] }>('clusters', 'list');
    expect(listed.map(({ id }) => id)).toContain(added.id);
    expect((await run(['clusters', 'list'])).stdout).toMatch(/^NAME +SERVER +REGION +DEFAULT/);
    expect(await json('clusters', 'check', name)).toMatchObject({ usable: true, problems: [] });
    expect(await json('clusters', 'drain', name)).toEqual({ tenants: 0, standbyDatabases: 0 });
    const [cluster] = (await json<{ data: { accepting: boolean }[] }>('clusters', 'list', '--limit', '1')).data;
    expect(cluster).toMatchObject({ id: added.id, accepting: false });
    expect(await auditOf(added.id)).toEqual([
      { action: 'cluster.registered', actor: operatorId, client: 'tenantry clusters add' },
      { action: 'cluster.drained', actor: operatorId, client: 'tenantry clusters drain' },
    ]);

    await second.stop();
    const gone = await run(['clusters', 'check', added.id]);
    expect(gone).toMatchObject({ code: 4, stdout: expect.stringMatching(/^usable +no$/m) as string });
    const removed = await service.send('DELETE', `/clusters/${added.id}`, { token: service.operatorToken });
    expect(removed.status).toBe(204);
    await rm(secret);
  });
});

describe('tenantry operations', () => {
  it('lists, shows, retries and abandons an operation', LONG, async () => {
    const { id: tenantId } = await service.createTenant('operated');
    // Of a build that is newer than this one, so that no replica takes it.
    const operation = await insertOperation(service.app.engine.registry, {
      kind: 'close',
      subject: tenantId,
      tenantId,
      details: { version: '9999_newer' },
    });
    const id = operation?.id ?? '';
    const { data: listed } = await json<{ data: { id: string; kind: string }[] }>(
      ...['operations', 'list', '--tenant', 'operated', '--state', 'waiting'],
    );
    expect(listed.map((each) => [each.id, each.kind])).toEqual([[id, 'close']]);
    expect((await run(['operations', 'list', '--tenant', tenantId])).stdout).toMatch(/^ID +KIND +STATE +STEP/);
    const api = await service.send('GET', `/operations/${id}`, { token: service.operatorToken });
    expect(await json('operations', 'show', id)).toEqual(api.body);
    expect(await json('operations', 'retry', id)).toMatchObject({ id, endedAt: null });
    expect(await run(['operations', 'abandon', id])).toMatchObject({ code: 2, stdout: '' });
    expect(await json('operations', 'abandon', id, '--yes')).toMatchObject({ id, state: 'abandoned' });
    expect(await run(['operations', 'retry', id])).toMatchObject({
      code: 4,
      stderr: 'The operation has ended as "abandoned".\n',
    });
    expect(await run(['operations', 'show', 'nonsense'])).toMatchObject({ code: 4 });
    expect(await auditOf(id)).toEqual([
      { action: 'operation.retried', actor: operatorId, client: 'tenantry operations retry' },
      { action: 'operation.abandoned', actor: operatorId, client: 'tenantry operations abandon' },
    ]);
  });
});

describe('tenantry keys and pools', () => {
  it('shows the keys, and encrypts all passwords with a new one, which is asked for first', LONG, async () => {
    const registry = await createRegistry();
    const before = environmentFor(registry, data.dir);
    expect(
      (await tenantry(['operators', 'create', 'key@example.com', '--password-file', passwordFile], before)).code,
    ).toBe(0);
    expect((await tenantry([...create('Sealed', 'sealed'), '--password-file', passwordFile], before)).code).toBe(0);
    const keys = `k2:${randomBytes(32).toString('base64')},${before['ENCRYPTION_KEYS'] ?? ''}`;
    const after = { ...before, ENCRYPTION_KEYS: keys };
    const status = await tenantry(['keys', 'status'], after);
    expect(status.stdout).toBe(
      'KEY   HELD  CURRENT  PASSWORDS\nk2    yes   yes              0\ntest  yes   no               2\n',
    );
    const asked = await tenantry(['keys', 'rotate'], after);
    expect(asked).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('"k2"') as string });
    const rotated = await tenantry(['keys', 'rotate', '--yes', '--json'], after);
    expect(rotated).toMatchObject({ code: 0, stderr: '' });
    expect(JSON.parse(rotated.stdout)).toEqual({
      keys: [
        { kid: 'k2', held: true, current: true, rows: 2 },
        { kid: 'test', held: true, current: false, rows: 0 },
      ],
    });
    // The replicas encrypt with this key from now on, so there is nothing to ask.
    expect((await tenantry(['keys', 'rotate'], after)).code).toBe(0);
    const { rows } = await asSuperuser(registry, (db) =>
      sql<AuditRow & { details: object }>`
        select action, user_agent as client, details from audit where action = 'keys.rotated' order by at, id`.execute(
        db,
      ),
    );
    expect(rows[0]).toEqual({
      action: 'keys.rotated',
      client: 'tenantry keys rotate',
      details: { kid: 'k2', rows: 2 },
    });
    expect(rows).toHaveLength(2);
  });

  it('shows the connections of the fleet and its replicas', LONG, async () => {
    const shown = await json<{ clusters: object[]; replicas: object[] }>('pools');
    expect(shown.clusters[0]).toMatchObject({ answers: true, budget: { tenants: expect.any(Number) as number } });
    expect(shown.replicas).toEqual([expect.objectContaining({ alive: true }) as object]);
    const { stdout } = await run(['pools']);
    expect(stdout).toMatch(/^CLUSTER +LEASED +USED +BUDGET[^]*\n\nREPLICA +HOST +VERSION/);
  });
});

describe('tenantry rollouts', () => {
  it('starts a rollout, which the service carries out, and shows it when it has ended', LONG, async () => {
    const { registry } = service.app.engine;
    const { id: tenantId } = await service.createTenant('behind');
    await recordOlderSchema(registry, tenantId, '0001_identity');
    const shown = await json<{ id: string; state: string; progress: object; plan: object }>(
      ...['rollouts', 'start', '--canary', tenantId, '--waves', '50', '--budget', '0', '--wait'],
    );
    expect(shown).toMatchObject({
      state: 'done',
      plan: { canary: { tenants: [tenantId] }, waves: [50, 100], budget: 0, pace: 'gentle' },
      progress: { total: 1, done: 1, failed: 0 },
    });
    expect((await findTenant(registry, tenantId))?.schemaVersion).toBe(latestVersion(tenantMigrations));
    expect(await auditOf(shown.id)).toEqual([
      { action: 'rollout.started', actor: operatorId, client: 'tenantry rollouts start' },
    ]);
    expect(await json('rollouts', 'show', shown.id)).toMatchObject({ id: shown.id, state: 'done' });
    expect(await json('rollouts', 'list', '--state', 'done')).toMatchObject({ data: [{ id: shown.id }], more: false });
    expect(await json('rollouts', 'items', shown.id)).toMatchObject({ data: [{ tenantId, state: 'done', wave: 0 }] });
    for (const act of [['pause'], ['resume'], ['retry'], ['abort', '--yes']])
      expect(await run(['rollouts', ...act]), act[0]).toMatchObject({
        code: 4,
        stdout: '',
        stderr: expect.stringMatching(/is in the state "done"|has failed/) as string,
      });
    expect(await run(['rollouts', 'start'])).toMatchObject({ code: 4, stderr: 'No tenant is behind.\n' });
  });

  it('steers the rollout under way, each act audited', LONG, async () => {
    // Without a service no worker takes the tenant.
    const registry = await createRegistry();
    const own = environmentFor(registry, data.dir);
    const code = async (...args: readonly string[]): Promise<number | null> => (await tenantry(args, own)).code;
    expect(await run(['rollouts', 'show'], '', own)).toMatchObject({ code: 4, stderr: 'There is no rollout.\n' });
    expect(await code('operators', 'create', 'rolls@example.com', '--password-file', passwordFile)).toBe(0);
    expect(await code(...create('Rolled', 'rolled'), '--password-file', passwordFile)).toBe(0);
    await asSuperuser(registry, (db) => sql`update tenants set schema_version = '0001_identity'`.execute(db));
    const steer = async (...args: readonly string[]): Promise<{ id: string; state: string }> => {
      const ran = await tenantry(['rollouts', ...args, '--json'], own);
      expect(ran.stderr).toBe('');
      return JSON.parse(ran.stdout) as { id: string; state: string };
    };
    const { id, state } = await steer('start', '--budget', '2');
    expect(state).toBe('running');
    expect(await run(['rollouts', 'start'], '', own)).toMatchObject({ code: 4 });
    expect(await steer('pause')).toMatchObject({ id, state: 'paused' });
    expect(await run(['rollouts', 'show', '--wait'], '', own)).toMatchObject({ code: 3 });
    expect(await steer('resume', '--budget', '7')).toMatchObject({ id, state: 'running', plan: { budget: 7 } });
    const asked = await run(['rollouts', 'abort'], '', own);
    expect(asked).toMatchObject({ code: 2, stderr: expect.stringContaining('--yes') as string });
    expect(await steer('abort', '--yes')).toMatchObject({ id, state: 'aborted' });
    expect((await auditOf(id, registry)).map(({ action, client }) => [action, client])).toEqual([
      ['rollout.started', 'tenantry rollouts start'],
      ['rollout.paused', 'tenantry rollouts pause'],
      ['rollout.resumed', 'tenantry rollouts resume'],
      ['rollout.aborted', 'tenantry rollouts abort'],
    ]);
  });

  it('refuses a plan that is none, and a rollout that is not there', LONG, async () => {
    for (const plan of [
      ['--canary', 'some'],
      ['--canary', '101%'],
      ['--waves', '50,10'],
      ['--budget', '-1'],
    ]) {
      const ran = await run(['rollouts', 'start', ...plan]);
      expect(ran).toMatchObject({ code: 2, stdout: '' });
      expect(ran.stderr).toMatch(
        /^Option '--\w+ .* is invalid\. It must be .*\.\nHelp: tenantry rollouts start --help\n$/i,
      );
    }
    for (const id of ['nothing', '01900000-0000-7000-8000-0000000000ff'])
      expect(await run(['rollouts', 'show', id])).toMatchObject({ code: 4, stderr: `There is no rollout "${id}".\n` });
  });
});

describe('tenantry serve and migrate', () => {
  it('migrate does what npm run migrate does', LONG, async () => {
    const { superuser, registryOwner } = inject('cluster');
    const { database } = service.config.registry.connection;
    const owner = { MIGRATION_DATABASE_URL: urlOf({ ...superuser, ...registryOwner, database }) };
    const ran = await tenantryProcess(['migrate'], { ...env, ...owner });
    expect(ran.code).toBe(0);
    expect(ran.stdout).toContain('"report":');
    expect(await tenantryProcess(['migrate', '--no-such-flag'], env)).toMatchObject({ code: 2 });
  });

  it(
    'serve serves until a signal, and commands work on its embedded PostgreSQL, beside it and after it',
    LONG,
    async () => {
      const own = await makeDataDir();
      onTestFinished(() => own.remove());
      const served = await startProcess({ DATA_DIR: own.dir }, undefined, ['src/cli.js', 'serve']);
      onTestFinished(async () => {
        if (isRunning(served.pid)) served.signal('SIGKILL');
        await served.exited;
      });
      const beside = await tenantryProcess(['operators', 'list', '--json'], { DATA_DIR: own.dir });
      expect(beside).toMatchObject({ code: 0, stderr: '' });
      expect(beside.stdout).toContain('operator@tenantry.local');
      served.signal('SIGTERM');
      expect(await served.exited).toBe(0);
      const after = await tenantryProcess(['tenants', 'list'], { DATA_DIR: own.dir });
      expect(after).toEqual({ code: 0, stdout: expect.stringMatching(/^SLUG +NAME/) as string, stderr: '' });
    },
  );
});

const missing = isMissing('script');

describe.skipIf(missing)(`tenantry on a terminal (script)${skipNote('script')}`, () => {
  it('asks before it deletes: no changes nothing, and yes deletes', LONG, async () => {
    await service.createTenant('on-terminal');
    const status = async (): Promise<string | undefined> =>
      (await findTenantBySlug(service.app.engine.registry, 'on-terminal'))?.status;
    const refused = tenantryOnTerminal('tenants delete on-terminal', env);
    await refused.shows('[y/N] ');
    refused.type('\r');
    expect(await refused.ended).toBe(4);
    expect(refused.text).toContain('Nothing was changed.');
    expect(await status()).toBe('active');

    const agreed = tenantryOnTerminal('tenants delete on-terminal', env);
    await agreed.shows('Delete the tenant "on-terminal"?');
    await agreed.shows('[y/N] ');
    agreed.type('y\r');
    expect(await agreed.ended).toBe(0);
    expect(agreed.text).toMatch(/^status +deleted$/m);
    expect(await status()).toBe('deleted');
  });

  it('ends with 130 when Ctrl-C answers the question', LONG, async () => {
    await service.createTenant('interrupted');
    const terminal = tenantryOnTerminal('tenants delete interrupted', env);
    await terminal.shows('[y/N] ');
    terminal.type('\u0003');
    expect(await terminal.ended).toBe(130);
    expect((await findTenantBySlug(service.app.engine.registry, 'interrupted'))?.status).toBe('active');
  });

  it('asks for a new password without showing it', LONG, async () => {
    const args = [...create('Typed', 'typed')].map((word) => `'${word}'`).join(' ');
    const terminal = tenantryOnTerminal(args, env);
    await terminal.shows('New password (empty: make one up): ');
    terminal.type('a typed password 1\r');
    await terminal.shows('The same again: ');
    terminal.type('a typed password 1\r');
    expect(await terminal.ended).toBe(0);
    expect(terminal.text).not.toContain('a typed password');
    expect(await signIn('typed', 'a typed password 1')).toBe(200);
  });
});

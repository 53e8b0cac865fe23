// `tenantry doctor` as people and scripts run it: what it writes, its exit codes, and the question before repairs. It runs within this
// process, and on a terminal as a process. The server belongs to this file alone.
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { doctorCodes } from '../../src/doctor/doctor-codes.js';
import { startCluster, type TestCluster } from '../support/cluster.js';
import { commandsIn, shellBlocksOf } from '../support/docs.js';
import { holdEveryJob } from '../support/held-jobs.js';
import { isMissing, skipNote } from '../support/programs.js';
import { startSecondCluster } from '../support/second-cluster.js';
import { build, makeDataDir } from '../support/service-process.js';
import { connectTo, startServiceIn, type TestService, type TestTenant } from '../support/service.js';
import { environmentFor, tenantry, tenantryOnTerminal, type Ran } from '../support/tenantry.js';
import { rowOf } from '../support/tenants.js';

const LONG = { timeout: 180_000 };

let cluster: TestCluster;
let stop: () => Promise<void>;
let service: TestService;
let resumeJobs: () => Promise<void>;
let tenant: TestTenant;
let env: Record<string, string>;
let data: Awaited<ReturnType<typeof makeDataDir>>;

beforeAll(async () => {
  await build();
  ({ cluster, stop } = await startCluster({}));
  data = await makeDataDir();
  service = await startServiceIn(cluster, {
    env: { RECONCILE_EVERY_MS: '3600000', STANDBY_DATABASES: '0', CLUSTER_HOSTS: '127.0.0.1' },
  });
  resumeJobs = await holdEveryJob(service, cluster);
  tenant = await service.createTenant('acme');
  env = environmentFor(service.config.registry.connection.database, data.dir, cluster);
}, 240_000);
afterAll(async () => {
  await resumeJobs();
  await service.close();
  await stop();
  await data.remove();
});

async function run(args: readonly string[], more: Readonly<Record<string, string>> = {}): Promise<Ran> {
  const ran = await tenantry(['doctor', ...args], { ...env, ...more });
  expect(ran.stdout + ran.stderr).not.toMatch(/^\s+at .*[:(]\d+|node:internal/m);
  return ran;
}

const linesOf = ({ stdout }: Ran): Record<string, unknown>[] =>
  stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

/** Gives the tenant's role another limit, which is one finding. */
async function breakLimit(): Promise<void> {
  const { dbUser } = await rowOf(service, tenant);
  const admin = connectTo<unknown>(cluster, 'postgres');
  await sql`alter role ${sql.id(dbUser)} connection limit 1`.execute(admin.db).finally(() => admin.close(0));
}

/** Takes a right from the tenant's role, which is one finding. */
async function takeRights(): Promise<void> {
  const { dbName, dbUser } = await rowOf(service, tenant);
  const admin = connectTo<unknown>(cluster, dbName);
  await sql`revoke select on products from ${sql.id(dbUser)}`.execute(admin.db).finally(() => admin.close(0));
}

it('exits with 0 if nothing is wrong, and the commands of docs/guide/doctor.md work', LONG, async () => {
  const ran = await run([]);
  expect(ran).toEqual({ code: 0, stdout: 'Nothing is wrong with 1 tenant on 1 server.\n', stderr: '' });
  const commands = shellBlocksOf('docs/guide/doctor.md').flatMap(commandsIn);
  expect(commands.length).toBeGreaterThan(3);
  for (const command of commands) {
    const [, words = ''] = /^npx tenantry doctor ?(.*)$/.exec(command) ?? [];
    expect((await run(words.split(' ').filter((word) => word !== ''))).code, command).toBe(0);
  }
});

it('exits with 1 if there are errors, names them, and with 0 after --repair --yes', LONG, async () => {
  await breakLimit();
  const shown = await run([]);
  expect([shown.code, shown.stderr]).toEqual([1, '']);
  expect(shown.stdout).toMatch(
    /^error {4}role-limit {2}acme {2}127\.0\.0\.1:\d+\/tn_\w+\n {9}The role .* 1 connections/,
  );
  expect(shown.stdout).toContain('1 error and 0 warnings in 1 tenant on 1 server. --repair mends 1 of them.\n');
  const json = linesOf(await run(['--json']));
  expect(json).toEqual([
    expect.objectContaining({ type: 'finding', code: 'role-limit', tenant: { id: tenant.id, slug: 'acme' } }),
    expect.objectContaining({ type: 'summary', errors: 1, warnings: 0, repairable: 1, unchecked: 0, exitCode: 1 }),
  ]);
  // Without a terminal nothing is repaired without --yes.
  const refused = await run(['--repair']);
  expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('Give --yes')]);
  expect((await run(['--only', 'grants-missing'])).code).toBe(0);
  const mended = linesOf(await run(['--repair', '--yes', '--json']));
  expect(mended).toEqual([
    expect.objectContaining({ type: 'repair', code: 'role-limit', problem: null }),
    expect.objectContaining({ type: 'summary', errors: 0, exitCode: 0 }),
  ]);
  expect((await run([])).code).toBe(0);
});

it.skipIf(isMissing('script'))(
  `on a terminal it shows each repair and asks once${skipNote('script')}`,
  LONG,
  async () => {
    await breakLimit();
    const no = tenantryOnTerminal('doctor --repair', env);
    await no.shows('Make this repair, and the further repairs that they make possible? [y/N]');
    expect(no.text).toContain('role-limit  acme');
    no.type('n\n');
    expect(await no.ended).toBe(4);
    expect((await run([])).code).toBe(1);
    const yes = tenantryOnTerminal('doctor --repair', env);
    await yes.shows('[y/N]');
    yes.type('y\n');
    expect(await yes.ended).toBe(0);
    expect(yes.text).toContain('mended');
    expect(yes.text).toContain('Nothing is wrong');
  },
);

it('exits with 3 if a server is away, and shows what it found elsewhere', LONG, async () => {
  const second = await startSecondCluster('doctor');
  onTestFinished(() => second.stop());
  const made = await service.send<{ id: string }>('POST', '/clusters', {
    token: service.operatorToken,
    body: second.body,
  });
  expect(made.status, made.text).toBe(201);
  await second.stop();
  // The service itself sets the limits of roles again when a cluster is added.
  await takeRights();
  const ran = await run(['--repair', '--yes']);
  expect(ran.code).toBe(3);
  expect(ran.stderr).toContain('grants-missing');
  expect(ran.stdout).toContain('error    cluster-away');
  expect((await run(['--tenants', 'acme'])).code).toBe(0);
  expect((await run(['--cluster', 'doctor'])).code).toBe(3);
  const removed = await service.send('DELETE', `/clusters/${made.body.id}`, { token: service.operatorToken });
  expect(removed.status, removed.text).toBe(204);
});

it(
  'finds settings that are wrong, and a registry that is away, as it finds the rest: settings-wrong',
  LONG,
  async () => {
    const wrong = await run(['--json'], { REGISTRY_POOL_MAX: 'many' });
    expect([wrong.code, wrong.stderr]).toEqual([1, '']);
    expect(linesOf(wrong)).toEqual([
      expect.objectContaining({
        code: 'settings-wrong',
        found: expect.stringContaining('REGISTRY_POOL_MAX') as string,
      }),
      expect.objectContaining({ type: 'summary', errors: 1 }),
    ]);
    const away = await run([], { DATABASE_URL: 'postgres://nobody:nothing@127.0.0.1:1/none' });
    expect(away.code).toBe(1);
    expect(away.stdout).toMatch(/^error {4}settings-wrong\n.*the registry at 127\.0\.0\.1:1 cannot be used/);
  },
);

it('--list names every code without a registry; an unknown code, tenant or cluster is refused', LONG, async () => {
  const listed = await tenantry(['doctor', '--list'], { DATA_DIR: data.dir });
  expect([listed.code, listed.stderr]).toEqual([0, '']);
  for (const code of Object.keys(doctorCodes)) expect(listed.stdout).toMatch(new RegExp(`^${code} `, 'm'));
  expect((await run(['--only', 'no-such-code'])).code).toBe(2);
  expect((await run(['--tenants', 'no-such-tenant'])).code).toBe(4);
  expect((await run(['--cluster', 'no-such-cluster'])).code).toBe(4);
});

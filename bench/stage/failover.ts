// A PostgreSQL server with a standby, and two installations of the service on it: one connects through a proxy, the other by a
// name that moves.
import { sql } from 'kysely';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { createPasswords, OPERATORS } from '../../src/auth/passwords.js';
import { startProxy } from '../../tests/support/proxy.js';
import { STANDBY_SUPERUSER, startServerPair, type ReplicatedServer } from '../../tests/support/standby-server.js';
import type { Cleanup } from '../cleanup.js';
import type { Flags } from '../flags.js';
import { BUILD } from '../measuring/program.js';
import { progress } from '../report.js';
import { prepareServer, type PreparedServer } from './cluster.js';
import { install, makeFolder, type Service } from './installation.js';
import { seed, USER_PASSWORD, type SeededTenant } from './seed.js';

/** How the service reaches its server. */
export const WAYS = ['proxy', 'name'] as const;
export type Way = (typeof WAYS)[number];

export interface FailoverSubject {
  readonly way: Way;
  readonly service: Service;
  readonly tenant: SeededTenant;
}

export interface Failover {
  readonly cluster: Pick<PreparedServer, 'version'>;
  readonly subjects: readonly FailoverSubject[];
  /**
   * Stops the primary, starts it as a standby of the other server, directs proxy and name to the other server, and promotes it.
   * The next call switches back.
   *
   * @returns when the primary was gone and when the other server took writes (on `performance.now`)
   */
  switchOver(): Promise<{ readonly gone: number; readonly promoted: number }>;
  complaints(): Promise<string>;
}

const NAME = 'database.bench.test';
const SIZE = { users: 2, products: 20 };

/** Starts and fills everything; `cleanup` undoes it. @throws Error */
export async function openFailover(flags: Flags, cleanup: Cleanup): Promise<Failover> {
  const folder = await makeFolder(cleanup);
  const namesFile = path.join(folder, 'names.json');
  progress('starting PostgreSQL and a standby');
  const pair = await cleanup.start(
    () => startServerPair(async () => undefined),
    (started) => started.stop(),
  );
  const proxy = await cleanup.start(
    () => startProxy(pair.one),
    (started) => started.close(),
  );
  const pointTo = async ({ host, port }: ReplicatedServer): Promise<void> => {
    proxy.target = { host, port };
    await writeFile(namesFile, JSON.stringify({ [NAME]: host }));
  };
  await pointTo(pair.one);

  const { user: superuser, password } = STANDBY_SUPERUSER;
  const server = await prepareServer(
    { host: pair.one.host, port: pair.one.port, superuser, password },
    registryOf('proxy'),
  );
  await addRegistry(server, registryOf('name'));
  const passwordHash = await createPasswords(1).hash(USER_PASSWORD, OPERATORS);

  async function open(way: Way): Promise<FailoverSubject & { complaints(): Promise<string> }> {
    progress(`starting the service that reaches it by ${way}`);
    const place = way === 'proxy' ? { host: proxy.host, port: proxy.port } : { host: NAME, port: pair.one.port };
    const database = registryOf(way);
    const there = {
      registry: { ...server.registry, ...place, database },
      registryOwner: { ...server.registryOwner, ...place, database },
      provisioner: { ...server.provisioner, ...place },
    };
    const names = pathToFileURL(path.join(BUILD, 'bench/programs/names.js'));
    names.searchParams.set('file', namesFile);
    const env = { ...flags.env, NODE_OPTIONS: `--import=${names.href}` };
    const logs = path.join(folder, way);
    await mkdir(logs);
    const installation = await install(logs, there, { ...flags, env }, cleanup);
    const service = await installation.startService();
    const operatorToken = await installation.signInOperator(service);
    const registry = { ...server.registry, database };
    const { auth } = installation;
    const filling = { url: service.url, operatorToken, registry, provisioner: server.provisioner, auth, passwordHash };
    const [tenant] = await seed({ ...filling, count: 1, size: SIZE, atOnce: 1 });
    if (!tenant) throw new Error('no tenant was made');
    return { way, service, tenant, complaints: () => installation.complaints() };
  }

  const subjects = [await open('proxy'), await open('name')];
  let [primary, standby] = [pair.one, pair.other];
  return {
    cluster: server,
    subjects,
    async switchOver() {
      await primary.stop('fast');
      const gone = performance.now();
      await primary.follow(standby);
      await primary.start();
      await pointTo(standby);
      await standby.promote();
      const promoted = performance.now();
      [primary, standby] = [standby, primary];
      return { gone, promoted };
    },
    complaints: async () => (await Promise.all(subjects.map((subject) => subject.complaints()))).join('\n'),
  };
}

function registryOf(way: Way): string {
  return `registry_${way}`;
}

/** Adds an empty registry for the same roles. */
async function addRegistry({ asSuperuser, registry, registryOwner }: PreparedServer, name: string): Promise<void> {
  const database = sql.id(name);
  await asSuperuser(async (db) => {
    await sql`create database ${database} owner ${sql.id(registryOwner.user)} template template0 encoding 'UTF8'`.execute(
      db,
    );
    await sql`revoke all on database ${database} from public`.execute(db);
    await sql`grant connect on database ${database} to ${sql.id(registry.user)}`.execute(db);
  });
}

// Load on replicas of two builds: a balancer, requests of tenants, and new tenants.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { ADMIN, connectTo, OPERATOR } from './service.js';
import { eventually, type ServiceProcess } from './service-process.js';
import type { TwoBuilds } from './two-builds.js';

/** Failed checks after which a replica gets no more requests. */
const FALL = 3;

/** Like a load balancer: requests go to the replicas that said they are ready, and wait for one if none is. */
export class Balancer {
  /** The checks that each replica has failed in a row. */
  readonly #failures = new Map<ServiceProcess, number>();
  readonly #killed = new Set<ServiceProcess>();
  #stopped = false;
  readonly #polling = this.#poll();

  async #poll(): Promise<void> {
    while (!this.#stopped) {
      await Promise.all(
        [...this.#failures].map(async ([replica, failures]) => {
          const isReady = await fetch(`${replica.url}/health/ready`)
            .then(({ ok }) => ok)
            .catch(() => false);
          this.#failures.set(replica, isReady ? 0 : failures + 1);
        }),
      );
      await sleep(100);
    }
  }

  get #ready(): readonly ServiceProcess[] {
    return [...this.#failures].filter(([, failures]) => failures < FALL).map(([replica]) => replica);
  }

  async add(replica: ServiceProcess): Promise<ServiceProcess> {
    this.#failures.set(replica, FALL);
    await eventually('the replica is ready', () => this.#ready.includes(replica));
    return replica;
  }

  async pick(turn: number): Promise<ServiceProcess> {
    await eventually('a replica is ready', () => this.#ready.length > 0);
    const replica = this.#ready[turn % this.#ready.length];
    if (!replica) throw new Error('no replica is ready');
    return replica;
  }

  /** Kills a replica: what it had begun gets no answer. */
  async kill(replica: ServiceProcess): Promise<void> {
    this.#killed.add(replica);
    replica.signal('SIGKILL');
    await replica.exited;
  }

  hasKilled(replica: ServiceProcess): boolean {
    return this.#killed.has(replica);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#polling;
  }
}

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly retryAfter: string | null;
}

export async function send(url: string, method: string, body?: object, token?: string): Promise<Answer> {
  const answer = await fetch(url, {
    method,
    headers: {
      ...(body && { 'content-type': 'application/json' }),
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
    },
    ...(body && { body: JSON.stringify(body) }),
  });
  return { status: answer.status, text: await answer.text(), retryAfter: answer.headers.get('retry-after') };
}

export async function operatorToken({ url }: ServiceProcess): Promise<string> {
  const { text } = await send(`${url}/auth/operator/login`, 'POST', OPERATOR);
  return (JSON.parse(text) as { accessToken: string }).accessToken;
}

let slugs = 0;

export async function makeTenant(replica: ServiceProcess, token: string): Promise<Answer & { slug: string }> {
  const slug = `upgrade-${(slugs += 1)}`;
  return { slug, ...(await send(`${replica.url}/tenants`, 'POST', { name: slug, slug, admin: ADMIN }, token)) };
}

/** Requests of tenants, all the time. @returns what ends them, with what failed */
export function load(
  balancer: Balancer,
  tenants: readonly string[],
  clients: number,
): () => Promise<{ sent: number; failed: string[] }> {
  const failed: string[] = [];
  let sent = 0;
  let running = true;
  const client = async (number: number): Promise<void> => {
    const tenant = tenants[number % tenants.length];
    let token = '';
    let product = '';
    for (let turn = 0; running; turn += 1) {
      const act = turn % 8;
      const request: readonly [string, string, object?] =
        act === 0
          ? ['POST', '/auth/login', { tenant, email: ADMIN.email, password: ADMIN.password }]
          : act === 1
            ? ['POST', '/products', { name: `Thing ${number}-${turn}`, price: '1.00', description: 'of the load' }]
            : act === 2
              ? ['PATCH', `/products/${product}`, { description: `changed ${turn}` }]
              : act === 3
                ? ['GET', '/users?limit=5']
                : act === 4
                  ? ['GET', '/auth/me']
                  : ['GET', '/products?limit=5'];
      const [method, route, body] = request;
      sent += 1;
      let replica: ServiceProcess | undefined;
      try {
        replica = await balancer.pick(number + turn);
        const answer = await send(replica.url + route, method, body, act === 0 ? undefined : token);
        if (answer.status >= 300) failed.push(`${method} ${route}: ${answer.status} ${answer.text}`);
        else if (act === 0) token = (JSON.parse(answer.text) as { accessToken: string }).accessToken;
        else if (act === 1) product = (JSON.parse(answer.text) as { id: string }).id;
      } catch (error) {
        // A process that was killed gave no answer to what it had begun.
        if (replica && balancer.hasKilled(replica)) {
          await sleep(10);
          continue;
        }
        failed.push(`${method} ${route}: ${String(error)} ${String((error as Error).cause)}`);
      }
      await sleep(10);
    }
  };
  const all = Promise.all(Array.from({ length: clients }, (_, number) => client(number)));
  return async () => {
    running = false;
    await all;
    return { sent, failed };
  };
}

/** Makes tenants on every replica in turn. @returns what ends it, with the answers */
export function creations(balancer: Balancer, token: string): () => Promise<(Answer & { slug: string })[]> {
  const answers: (Answer & { slug: string })[] = [];
  const state = { running: true };
  const working = (async () => {
    for (let turn = 0; state.running; turn += 1) {
      const replica = await balancer.pick(turn);
      try {
        answers.push(await makeTenant(replica, token));
      } catch (error) {
        if (!balancer.hasKilled(replica)) throw error;
      }
      await sleep(300);
    }
  })();
  // The caller hears of an error when it ends this.
  working.catch(() => undefined);
  return async () => {
    state.running = false;
    await working;
    return answers;
  };
}

/** The schema of each tenant, by its row and by its database. */
export async function schemasOf(builds: TwoBuilds): Promise<Record<string, number>> {
  const rows = await builds.central.db.selectFrom('tenants').select(['db_name', 'status', 'schema_version']).execute();
  const counts: Record<string, number> = {};
  for (const { db_name: name, status, schema_version: version } of rows) {
    const handle = connectTo<unknown>(builds.cluster, name);
    const { rows: found } = await sql<{ name: string }>`
      select max(name) as name from migration.kysely_migration`.execute(handle.db);
    await handle.close(0);
    const key = `${status}: row ${version}, database ${found[0]?.name ?? 'none'}`;
    counts[key] = (counts[key] ?? 0) + 1;
  }
  return counts;
}

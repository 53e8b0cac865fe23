// The part of `npm run topology` that restarts one replica after the other under load.
import { readFile } from 'node:fs/promises';
import { notThereOnce, send, startLoad } from '../tests/support/rolling-load.js';
import type { Topology } from '../tests/support/topology.js';
import { exitCodes, say } from './command.js';

const ADMIN = { email: 'ada@acme.example', password: 'correct horse battery', firstName: 'Ada', lastName: 'Acme' };

/** Failed requests that are shown one by one. */
const SHOWN = 10;

export interface Rolling {
  /** How many restarts, one replica after the other. */
  readonly restarts: number;
  /** The folders of the builds. If they differ, all replicas are moved to the other build, and back, again and again. */
  readonly former: string;
  readonly build: string;
  readonly signal: AbortSignal;
}

/**
 * Restarts the replicas and shows the progress.
 *
 * @param topology with replicas of `former`
 * @returns the exit code: 1 if a request failed, or if a product whose creation was answered is not there once
 */
export async function roll(topology: Topology, { restarts, former, build, signal }: Rolling): Promise<number> {
  const caller = await makeTenant(topology);
  const load = startLoad(caller);
  const { replicas } = topology;
  try {
    if (former !== build) {
      say('migrating to this build under load');
      await topology.migrate(build);
    }
    for (let turn = 0; turn < restarts && !signal.aborted; turn += 1) {
      const index = turn % replicas.length;
      const next = Math.floor(turn / replicas.length) % 2 === 0 ? build : former;
      await replicas[index]?.stop('SIGTERM');
      await replicas[index]?.start(next);
      const what = former === build ? '' : next === build ? ', this build' : ', the former build';
      say(`${turn + 1}/${restarts} replica-${index + 1}${what}: ${load.sent} requests so far`);
    }
  } finally {
    await load.stop();
  }
  const { sent, created, failures } = await load.stop();
  const wrong = await notThereOnce(caller, created);
  for (const { method, outcome } of failures.slice(0, SHOWN)) say(`failed: ${method} ${outcome}`);
  for (const { id, name } of wrong.slice(0, SHOWN)) say(`not there once: ${id} (${name})`);
  if (failures.length > 0) for (const { logFile } of replicas) say(await failedLines(logFile));
  say(
    `${sent} requests, ${failures.length} failed; ${created.length} products created with a key, ${wrong.length} not there once`,
  );
  return failures.length + wrong.length === 0 ? exitCodes.kept : exitCodes.broken;
}

/** The lines of a replica about requests that it answered with a 5xx. */
async function failedLines(logFile: string): Promise<string> {
  const lines = (await readFile(logFile, 'utf8')).split('\n');
  return lines.filter((line) => /"status":5\d\d/.test(line) && !line.includes('/health/')).join('\n');
}

async function makeTenant({ url, operator }: Topology): Promise<{ url: string; token: string; productId: string }> {
  const post = async (path: string, body: unknown, token?: string): Promise<Record<string, unknown>> => {
    const answer = await send(url + path, 'POST', { body, ...(token !== undefined && { token }) });
    if (answer.status >= 300) throw new Error(`POST ${path} was answered ${answer.status}`);
    return answer.body;
  };
  const signedIn = await post('/auth/operator/login', operator);
  const tenant = { name: 'Acme', slug: 'acme', admin: ADMIN };
  await post('/tenants', tenant, String(signedIn['accessToken']));
  const { email, password } = ADMIN;
  const token = String((await post('/auth/login', { tenant: tenant.slug, email, password }))['accessToken']);
  const product = await post('/products', { name: 'Lamp', price: '12.50' }, token);
  return { url, token, productId: String(product['id']) };
}

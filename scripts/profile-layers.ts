// `npm run profile:layers -- FOLDER`: the time of a request by layer, from the CPU profile that `npm run bench -- --profile
// FOLDER` wrote. Only the seconds under load count: those in which the process was busiest.
import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { defineCommand, runCommand } from '../src/lib/command-line.js';

interface ProfileNode {
  readonly id: number;
  readonly callFrame: { readonly functionName: string; readonly url: string };
  readonly children?: readonly number[];
}

interface Profile {
  readonly nodes: readonly ProfileNode[];
  /** The node on top of the stack at each sample. */
  readonly samples: readonly number[];
  /** Microseconds before each sample. */
  readonly timeDeltas: readonly number[];
}

/** Seconds under load that are counted. */
const SECONDS = 4;

/** The first frame that matches, from the top of the stack downwards, decides. */
const layers: readonly (readonly [layer: string, frame: RegExp])[] = [
  ['metrics', /node_modules\/prom-client\/|request-metrics\.js|observability\/busy-tenants/],
  ['log', /node_modules\/(?:pino|@pinojs|sonic-boom)\/|plugins\/http\/request-log\.js|src\/observability\//],
  [
    'rate limit',
    /node_modules\/(?:@fastify\/rate-limit|toad-cache|@lukeed)\/|plugins\/(?:http\/(?:rate-limit|quotas)|caller\/user-rate)\.js|src\/replicas\/(?:counts|bucket)/,
  ],
  ['security headers, request id, head check', /plugins\/http\/(?:security-headers|request-id|request-head|cors)\.js/],
  [
    'token, tenant and standing',
    /plugins\/caller\/|src\/(?:auth|tenants)\/|src\/http\/admission|src\/replicas\/(?:fresh-cache|feed|events)|lru-cache/,
  ],
  [
    'validation (zod) and JSON body',
    /node_modules\/zod\/|plugins\/http\/(?:validation|json-body)\.js|src\/http\/strict-json\.js/,
  ],
  ['serializer', /node_modules\/fast-json-stringify\/|anonymous serializer/],
  ['pg', /node_modules\/(?:pg|pg-pool|pg-protocol|pg-types|postgres-\w+)\//],
  ['statements, lane and pool', /benchmark\/db\/|src\/connections\//],
  ['handler and cursor', /benchmark\/routes\/|src\/http\/cursors\.js|node:internal\/crypto/],
  ['Fastify', /node_modules\/(?:fastify|find-my-way|fastify-plugin|avvio)\//],
  ['node:http and sockets', /^node:/],
];

const profileLayers = defineCommand({
  start: 'npm run profile:layers --',
  about: `
Shows where the time of a request goes, layer by layer, from the CPU profile that the benchmark wrote. Only the ${SECONDS} busiest
seconds count.`,
  flags: {},
  operands: { name: 'FOLDER', what: 'the folder of the profile', min: 1, max: 1, example: '/tmp/profile' },
  notes: 'What writes the profile: npm run bench -- --scenario read --rounds 1 --profile FOLDER',
  exits: { 0: 'shown', 1: 'the folder has no profile that can be read' },
});

await runCommand(profileLayers, ({ operands: [folder = ''] }) => {
  process.stdout.write(table(readProfile(folder)));
  return 0;
});

/** The largest profile of the folder: it is the service's, and not that of a short-lived process. */
function readProfile(where: string): Profile {
  const files = readdirSync(where).filter((name) => name.endsWith('.cpuprofile'));
  const [largest] = files
    .map((name) => path.join(where, name))
    .sort((one, other) => statSync(other).size - statSync(one).size);
  if (largest === undefined) throw new Error(`there is no .cpuprofile in ${where}`);
  return JSON.parse(readFileSync(largest, 'utf8')) as Profile;
}

function table(profile: Profile): string {
  const shares = [...timeByLayer(profile)].sort(([, one], [, other]) => other - one);
  const all = shares.reduce((sum, [, time]) => sum + time, 0);
  const rows = shares.map(([layer, time]) => `| ${layer} | ${((time / all) * 100).toFixed(1)} % |`);
  return ['| layer | of the busy time |', '| --- | ---: |', ...rows, ''].join('\n');
}

function timeByLayer({ nodes, samples, timeDeltas }: Profile): Map<string, number> {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const parents = new Map(nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node] as const)));
  const stackOf = (id: number): ProfileNode[] => {
    const stack: ProfileNode[] = [];
    for (let node = byId.get(id); node; node = parents.get(node.id)) stack.push(node);
    return stack;
  };
  const known = new Map<number, string>();
  const times = new Map<string, number>();
  const [from, to] = busiest(samples, timeDeltas, byId);
  for (let index = from; index < to; index += 1) {
    const id = samples[index] ?? 0;
    const layer = known.get(id) ?? layerOf(stackOf(id));
    known.set(id, layer);
    if (layer !== 'idle') times.set(layer, (times.get(layer) ?? 0) + (timeDeltas[index] ?? 0));
  }
  return times;
}

/** The index of the first and of the last sample of the busiest `SECONDS`. */
function busiest(
  samples: readonly number[],
  deltas: readonly number[],
  byId: ReadonlyMap<number, ProfileNode>,
): [from: number, to: number] {
  const isIdle = (index: number): boolean => byId.get(samples[index] ?? 0)?.callFrame.functionName === '(idle)';
  let best: [number, number] = [0, samples.length];
  let most = -1;
  let [from, length, busy] = [0, 0, 0];
  for (let to = 0; to < samples.length; to += 1) {
    const delta = deltas[to] ?? 0;
    length += delta;
    if (!isIdle(to)) busy += delta;
    while (length > SECONDS * 1e6) {
      length -= deltas[from] ?? 0;
      if (!isIdle(from)) busy -= deltas[from] ?? 0;
      from += 1;
    }
    if (length > SECONDS * 0.9e6 && busy > most) {
      most = busy;
      best = [from, to];
    }
  }
  return best;
}

/** @param stack from the top downwards */
function layerOf(stack: readonly ProfileNode[]): string {
  const top = stack[0]?.callFrame.functionName ?? '';
  if (top === '(idle)') return 'idle';
  if (top === '(garbage collector)') return 'garbage collection';
  const frames = stack.map(({ callFrame }) => (callFrame.url === '' ? '' : callFrame.url));
  if (/^write(?:v|Buffer|\w+String)$/.test(top) || top === 'writeString') {
    const toPostgres = frames.some((url) => /node_modules\/pg\/|benchmark\/db\/lane/.test(url));
    return toPostgres ? 'writes to PostgreSQL (system calls)' : 'writes to the client (system calls)';
  }
  for (const url of frames) {
    // Node's own code counts for the layer that called it. It counts for the server only if no other layer called it.
    if (url === '' || url.startsWith('node:')) continue;
    const layer = layers.find(([, frame]) => frame.test(url));
    if (layer) return layer[0];
  }
  return frames.some((url) => url.startsWith('node:')) ? 'node:http and sockets' : 'the rest of the process';
}

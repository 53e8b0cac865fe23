// Processes of the service that a test kills at a statement (tests/support/kill-at.ts): which statements, in which order, and what
// became of each process.
import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import ts from 'typescript';
import { eventually, startProcess, type ServiceProcess } from './service-process.js';

const root = path.resolve(import.meta.dirname, '../..');
const killAt = path.join(root, 'dist', `kill-at-${process.pid}.js`);

/** KILL_EVERY=1 takes every statement, which takes long; the suite takes two or three of each act. */
export const EVERY = Number(process.env['KILL_EVERY'] ?? 20);

/** EVERY means every one of so many: an act with fewer statements has a denser sample. */
const SCALE = 40;

/** A statement at which a process is killed. */
export interface KillPoint {
  readonly at: number;
  /** The statement without the values in it, instead of its number. */
  readonly shape?: string;
  readonly when: 'before' | 'after';
}

/** Something that a process is asked to do until it is killed. */
export interface KilledAct {
  /** Upper bound for its statements. Above it, the test fails. */
  readonly most: number;
  /** Runs alone: another process could do its work. */
  readonly alone?: boolean;
  /** Prepares the target of one process, right before that process starts. */
  ready?(nth: number): Promise<void>;
  /** @param nth a different number for each process */
  request(nth: number): { readonly method: string; readonly path: string; readonly body?: object };
  /** Whether the work has ended, if it goes on after the answer. */
  ended?(nth: number): Promise<boolean>;
}

export interface KilledProcess {
  readonly nth: number;
  /** Whether it answered, and its work ended, before the statement. */
  readonly answered: boolean;
  readonly point: KillPoint;
  /** The statements that it came to, as text. */
  readonly statements: readonly string[];
}

/** How processes of one test are started and asked. */
export interface Killing {
  readonly env: Readonly<Record<string, string>>;
  /** An operator's token, for one request. */
  readonly newToken: () => string;
}

/** Compiles what is loaded into the processes. After `build`. */
export async function prepareKills(): Promise<() => Promise<void>> {
  const source = await readFile(path.join(root, 'tests/support/kill-at.ts'), 'utf8');
  const { outputText } = ts.transpileModule(source, {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
  });
  await writeFile(killAt, outputText);
  return () => rm(killAt, { force: true });
}

/**
 * Lists of points, the next point after the process of the one before. Each list ends with a point that no process should reach.
 * Of a sample, acts of different numbers have different statements.
 */
function lanesOf(most: number, act: number): readonly (readonly KillPoint[])[] {
  const end: KillPoint = { at: most + 1, when: 'before' };
  if (EVERY === 1)
    return (['before', 'after'] as const).map((when) => [
      ...Array.from({ length: most }, (_, index) => ({ at: index + 1, when })),
      end,
    ]);
  const every = Math.max(1, Math.round((EVERY * most) / SCALE));
  const sample: KillPoint[] = [];
  for (let at = 1 + ((act * 5) % every); at <= most; at += every)
    sample.push({ at, when: (act + sample.length) % 2 === 0 ? 'before' : 'after' });
  return [[...sample, end]];
}

/** How many targets an act needs: one for each process. */
export function targetsOf(most: number): number {
  const lanes = [0, 1, 2, 3, 4].map((act) => lanesOf(most, act).flat().length);
  return Math.max(...lanes) + (EVERY === 1 ? 2 * most : 0);
}

/** Kills one process after the other, each at a later statement, until one of them answers. */
export async function killEach(killing: Killing, act: KilledAct, number: number): Promise<KilledProcess[]> {
  let nth = 0;
  const lanes = lanesOf(act.most, number).map((points) => points.map((point) => ({ point, nth: nth++ })));
  const killed: KilledProcess[] = [];
  if (act.alone) for (const lane of lanes) killed.push(...(await killAlong(killing, act, lane)));
  else killed.push(...(await Promise.all(lanes.map((lane) => killAlong(killing, act, lane)))).flat());
  if (EVERY > 1) return killed;
  // The numbers differ a little between processes, so that some statements had no kill: connections are opened when they are needed.
  for (const when of ['before', 'after'] as const)
    for (const shape of missedIn(killed, when)) killed.push(await killOne(killing, act, nth++, { at: 0, shape, when }));
  return killed;
}

async function killAlong(
  killing: Killing,
  act: KilledAct,
  lane: readonly { readonly point: KillPoint; readonly nth: number }[],
): Promise<KilledProcess[]> {
  const killed: KilledProcess[] = [];
  for (const { point, nth } of lane) {
    const process = await killOne(killing, act, nth, point);
    const reached = killed.at(-1)?.point.at ?? 0;
    killed.push(process);
    if (!process.answered) continue;
    // The number of statements differs a little.
    if (process.statements.length + 5 < reached) throw new Error('other work than that of the request ended the act');
    return killed;
  }
  throw new Error(`the act sends more than ${act.most} statements`);
}

/** Starts a process, and kills it at the statement, or when it has answered. */
export async function killOne(
  { env, newToken }: Killing,
  act: KilledAct,
  nth: number,
  point: KillPoint,
): Promise<KilledProcess> {
  await act.ready?.(nth);
  const child = await startProcess({
    ...env,
    KILL_AT: String(point.at),
    ...(point.shape !== undefined && { KILL_SHAPE: point.shape }),
    KILL_WHEN: point.when,
    NODE_OPTIONS: `--import=${pathToFileURL(killAt).href}`,
  });
  const answered = await ends(child, newToken(), act, nth).catch((error: unknown) => {
    child.signal('SIGKILL');
    throw error;
  });
  if (answered) child.signal('SIGKILL');
  if ((await child.exited) !== null) throw new Error(`the process was not killed:\n${child.stdout}`);
  const statements = [...child.stdout.matchAll(/^kill-at \d+: (.*)$/gm)].map(([, text = '']) => text);
  return { nth, answered, point, statements };
}

/** Whether the process answers, and its work ends, before it is killed. */
async function ends(child: ServiceProcess, token: string, act: KilledAct, nth: number): Promise<boolean> {
  const { method, path: where, body } = act.request(nth);
  const response = await fetch(`${child.url}${where}`, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
  }).catch(() => undefined);
  if (response && !response.ok)
    throw new Error(`${method} ${where} answered ${response.status}: ${await response.text()}`);
  if (!response) return false;
  if (!act.ended) return true;
  const state = { isKilled: false, hasEnded: false };
  void child.exited.then(() => (state.isKilled = true));
  const isOver = async (): Promise<boolean> => {
    state.hasEnded = (await act.ended?.(nth)) ?? true;
    return state.isKilled || state.hasEnded;
  };
  await eventually('the work has ended, or the process is killed', isOver, 60_000);
  // The signal for a statement after the end may be on its way.
  return state.hasEnded && !state.isKilled;
}

/**
 * The statements of every process that answered at which no process was killed, without the values in them. Of a sample most
 * statements are missing.
 */
export function missedIn(killed: readonly KilledProcess[], when: KillPoint['when']): string[] {
  const lane = killed.filter(({ point, answered }) => point.when === when && !answered);
  const at = new Set(lane.map(({ statements }) => shapeOf(statements.at(-1) ?? '')));
  const [first = new Set<string>(), ...others] = killed
    .filter(({ answered }) => answered)
    .map(({ statements }) => new Set(statements.map(shapeOf)));
  // Some statements come only at times: a step is noted only if it takes long, and a new connection looks first at its server.
  const always = [...first].filter((text) => others.every((other) => other.has(text)));
  return always.filter((text) => !at.has(text) && !text.startsWith('select pg_is_in_recovery()'));
}

const shapeOf = (text: string): string => text.replaceAll(/'(?:[^']|'')*'|"[^"]*"|\d+/g, '?');

// Loaded into a process of the service (node --import) that a test kills. It counts the statements about tenants that a request to
// this process causes, at once or in an operation that the request wakes. It writes each of them to standard output, and kills the
// process at the statement number KILL_AT, or at the first one of the shape KILL_SHAPE, before it is sent or right after.
import { AsyncLocalStorage } from 'node:async_hooks';
import { writeSync } from 'node:fs';
import { Server } from 'node:http';
import pg from 'pg';

/** Connections of work on tenants. Those of locks, leases, events and looks at servers are not counted. */
const COUNTED = /^tenantry (registry|provisioning|provisioner|lifecycle)\b/;

/** What runs by itself waits at least so long (ms) between two looks: a job, a beat, and a look for operations that are due. */
const SHORTEST_PERIOD = 900;

const at = Number(process.env['KILL_AT']);
const shape = process.env['KILL_SHAPE'];
const before = process.env['KILL_WHEN'] === 'before';
let count = 0;

/** What a request causes. The statements of other work come at any time: with them, numbers would name other statements. */
const caused = new AsyncLocalStorage<true>();

type Emit = (this: unknown, event: string, ...args: unknown[]) => boolean;
const server = Server.prototype as unknown as { emit: Emit };
const emit = server.emit;
server.emit = function (event, ...args) {
  if (event !== 'request') return emit.call(this, event, ...args);
  const request = args[0] as { emit: Emit };
  const own = request.emit;
  // The body is read in the context of the connection, which is older than the request.
  request.emit = function (...given) {
    return caused.run(true, () => own.apply(this, given));
  };
  return caused.run(true, () => emit.call(this, event, ...args));
};

// A look that a request wakes sets the timer of the next look.
const { setTimeout: setTimer } = globalThis;
const timers = (callback: (...args: unknown[]) => void, ms = 0, ...args: unknown[]): unknown =>
  ms < SHORTEST_PERIOD ? setTimer(callback, ms, ...args) : caused.exit(() => setTimer(callback, ms, ...args));
globalThis.setTimeout = Object.defineProperties(
  timers,
  Object.getOwnPropertyDescriptors(setTimer),
) as unknown as typeof setTimeout;

type Query = (this: pg.Client & { connectionParameters: { application_name?: string } }, ...args: unknown[]) => unknown;
const prototype = pg.Client.prototype as unknown as { query: Query };
const query = prototype.query;

prototype.query = function (...args) {
  const isCounted = caused.getStore() && COUNTED.test(this.connectionParameters.application_name ?? '');
  if (!isCounted) return query.apply(this, args);
  count += 1;
  const [given] = args as [string | { readonly text: string }];
  const text = typeof given === 'string' ? given : given.text;
  const line = text.trim().replaceAll(/\s+/g, ' ');
  writeSync(1, `kill-at ${count}: ${line}\n`);
  // As shapeOf in tests/support/killed-processes.ts.
  const isIt = shape === undefined ? count === at : line.replaceAll(/'(?:[^']|'')*'|"[^"]*"|\d+/g, '?') === shape;
  if (isIt && before) process.kill(process.pid, 'SIGKILL');
  const sent = query.apply(this, args);
  // The kernel has what was written: the server gets it, although the process is gone.
  if (isIt) process.kill(process.pid, 'SIGKILL');
  return sent;
};

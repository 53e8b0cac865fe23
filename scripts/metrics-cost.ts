// `npm run profile:metrics`: the processor time that metrics add to a request.
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { ServerResponse } from 'node:http';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { requestMetrics } from '../plugins/http/request-metrics.js';
import type { Engine } from '../src/engine/index.js';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { createBusyTenants } from '../src/observability/busy-tenants.js';
import { createInstruments } from '../src/observability/instruments.js';
import { createMetrics } from '../src/observability/metrics.js';
import { createTraffic } from '../src/observability/traffic.js';
import { say } from './command.js';

const ROUTES = 60;
const TENANTS = 300;
const REQUESTS = 50_000;
const ROUNDS = 20;

const metricsCost = defineCommand({
  start: 'npm run profile:metrics --',
  about: `
Shows the processor time that metrics add to a request: the hooks of the plugin that counts requests, on real requests of Fastify to
${ROUTES} routes by users of ${TENANTS} tenants. Of ${ROUNDS} rounds the fastest counts, because other work on the machine only adds time.`,
  flags: {},
  exits: { 0: 'shown' },
});

/** A hook without a promise. */
type Hook = (request: FastifyRequest, reply: FastifyReply, done: () => void) => void;
type Met = readonly [FastifyRequest, FastifyReply];

await runCommand(metricsCost, async () => {
  const hooks: Hook[] = [];
  const met = await requestsOf(await appWith(hooks));
  const done = (): void => undefined;
  const [arrived, answered] = hooks;
  if (!arrived || !answered) throw new Error('the plugin has two hooks');
  const withMetrics = (request: FastifyRequest, reply: FastifyReply): void => {
    arrived(request, reply, done);
    answered(request, reply, done);
  };
  const times = { without: Infinity, with: Infinity };
  for (let round = 0; round < ROUNDS; round += 1) {
    times.without = Math.min(times.without, await timeOf(met, done));
    times.with = Math.min(times.with, await timeOf(met, withMetrics));
  }
  say(`metrics add ${(times.with - times.without).toFixed(2)} µs of processor time to a request`);
  return 0;
});

/** @param hooks receives the hooks that the plugin adds, in the order in which they run */
async function appWith(hooks: Hook[]): Promise<FastifyInstance> {
  const metrics = createMetrics(() => undefined);
  const engine: Pick<Engine, 'instruments' | 'traffic' | 'busyTenants'> = {
    instruments: createInstruments(metrics),
    traffic: createTraffic(),
    busyTenants: createBusyTenants(20),
  };
  const app = fastify();
  app.decorateRequest('principal', null);
  const asEngine = fp(
    async (scope) => {
      scope.decorate('engine', engine as Engine);
    },
    { name: 'engine' },
  );
  await app.register(asEngine);
  const addHook = app.addHook.bind(app) as (...all: unknown[]) => FastifyInstance;
  app.addHook = ((name: string, hook: Hook) => {
    if (name === 'onRequest' || name === 'onResponse') hooks.push(hook);
    return addHook(name, hook);
  }) as typeof app.addHook;
  await app.register(requestMetrics);
  return app;
}

/** One request of each tenant, as a handler meets it. */
async function requestsOf(app: FastifyInstance): Promise<readonly Met[]> {
  const met: Met[] = [];
  for (let route = 0; route < ROUTES; route += 1)
    app.get(`/route-${route}/:id`, async (request, reply) => {
      met.push([request, reply]);
      return 'ok';
    });
  for (let tenant = 0; tenant < TENANTS; tenant += 1) await app.inject(`/route-${tenant % ROUTES}/1`);
  for (const [index, [request]] of met.entries()) {
    const tenantId = `01900000-0000-7000-8000-${String(index).padStart(12, '0')}`;
    request.principal = { kind: 'user', tenantId, userId: 'a', sessionId: 'b' };
  }
  return met;
}

/** @returns µs of processor time for each request, with what is done in both cases: an answer that is made and closed */
async function timeOf(met: readonly Met[], work: (...each: Met) => void): Promise<number> {
  await nextTurn();
  const before = process.cpuUsage();
  for (let index = 0; index < REQUESTS; index += 1) {
    const each = met[index % met.length];
    if (!each) break;
    const [request, reply] = each;
    reply.raw = new ServerResponse(request.raw);
    work(request, reply);
    reply.raw.emit('close');
  }
  const { user, system } = process.cpuUsage(before);
  return (user + system) / REQUESTS;
}

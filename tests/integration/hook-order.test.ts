// plugins/hook-order.ts is what Fastify executes, and has the order of the design.
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { hookOrder } from '../../plugins/hook-order.js';
import type * as Support from '../support/app.js';
import type { TestService } from '../support/app.js';

type Hook = (...parameters: unknown[]) => unknown;

/** The executed hooks. */
const recorded = { calls: [] as [hook: string, plugin: string][] };

/** Plugins that are being registered: the outermost is the one that the app registers. */
const registering: string[] = [];

/** Makes an app note each hook that it executes, with the plugin that added it. */
function watched(app: FastifyInstance): FastifyInstance {
  const tagged = (hook: string, plugin: string, run: Hook): Hook =>
    Object.defineProperty(
      function (this: unknown, ...parameters: unknown[]) {
        recorded.calls.push([hook, plugin]);
        return run.apply(this, parameters);
      },
      'length',
      { value: run.length },
    );
  const instance = app as unknown as Record<'register' | 'addHook', (...parameters: never[]) => unknown>;
  const { register, addHook } = instance;
  instance.register = function (this: FastifyInstance, plugin: Hook & Record<symbol, unknown>, options: unknown) {
    const name = (plugin[Symbol.for('fastify.display-name')] ?? plugin.name) as string;
    const wrapper = async (scope: FastifyInstance, given: unknown): Promise<void> => {
      registering.push(name);
      try {
        await (plugin.length > 2
          ? new Promise<void>((resolve, reject) => {
              plugin(scope, given, (error?: Error) => {
                if (error) reject(error);
                else resolve();
              });
            })
          : plugin(scope, given));
      } finally {
        registering.pop();
      }
    };
    for (const symbol of Object.getOwnPropertySymbols(plugin))
      Object.defineProperty(wrapper, symbol, { value: plugin[symbol] });
    return (register as Hook).call(this, wrapper, options);
  };
  instance.addHook = function (this: FastifyInstance, name: string, run: Hook) {
    const plugin = registering[0] ?? 'app';
    const isOfRequests = name in hookOrder;
    const kept = name === 'onRoute' ? watchRoutes(plugin, run) : isOfRequests ? tagged(name, plugin, run) : run;
    return (addHook as Hook).call(this, name, kept);
  };

  /** Each route can get a hook of its own, as the rate limit does. */
  function watchRoutes(plugin: string, run: Hook): Hook {
    return function (this: unknown, options) {
      const route = options as Record<string, unknown>;
      const before = Object.fromEntries(Object.keys(hookOrder).map((name) => [name, [route[name]].flat()]));
      run.call(this, route);
      for (const name of Object.keys(hookOrder)) {
        const added = [route[name]].flat().filter((one) => one !== undefined && !before[name]?.includes(one)) as Hook[];
        if (added.length > 0)
          route[name] = [route[name]]
            .flat()
            .map((one) => (added.includes(one as Hook) ? tagged(name, plugin, one as Hook) : one));
      }
    };
  }
  return app;
}

let support: Pick<typeof Support, 'startService' | 'startServiceForTest'>;
let service: TestService;
let token: string;
let tenant: string;

/** The service with the watched Fastify: other tests of this process have loaded it with the plain one. */
async function loadService(): Promise<typeof Support> {
  vi.resetModules();
  vi.doMock('fastify', async (load) => {
    const original = await load<{ default: (options: object) => FastifyInstance }>();
    return { ...original, default: (options: object) => watched(original.default(options)) };
  });
  return import('../support/app.js');
}

beforeAll(async () => {
  support = await loadService();
  service = await support.startService({ env: { CORS_ORIGINS: 'https://app.example.com', READ_CACHE: 'on' } });
  ({ adminToken: token, id: tenant } = await service.createTenant());
});
afterAll(async () => {
  await service.close();
  vi.doUnmock('fastify');
  vi.resetModules();
});

/** The plugins of each hook in the order in which one request met them. */
async function executed(
  send: () => Promise<{ readonly status: number }>,
  status: number,
): Promise<Record<string, string[]>> {
  recorded.calls.length = 0;
  expect((await send()).status).toBe(status);
  return Object.fromEntries(
    Object.keys(hookOrder).map((name) => [
      name,
      recorded.calls.filter(([hook]) => hook === name).map(([, plugin]) => plugin),
    ]),
  );
}

describe('the hooks of a request', () => {
  it('are executed in the order of the list', async () => {
    const body = { name: 'Chair', price: '1.00' };
    const met = await executed(() => service.send('POST', '/products', { token, body }), 201);
    expect(met).toEqual(hookOrder);
  });

  it('are the same on an act on the registry, with its own way to store answers', async () => {
    const met = await executed(
      () => service.send('PATCH', `/tenants/${tenant}`, { token: service.operatorToken, body: { name: 'Hooked' } }),
      200,
    );
    const instead = (plugins: readonly string[]): string[] =>
      plugins
        // Nothing of the registry is cached.
        .filter((plugin) => plugin !== 'cached-answers')
        .map((plugin) => (plugin === 'idempotency' ? 'idempotent-acts' : plugin));
    expect(met['onSend']).toEqual(instead(hookOrder.onSend));
    expect(met['onResponse']).toEqual(instead(hookOrder.onResponse));
  });

  it('have this order: CORS, security headers, rate limit, request ID and log, and then admission', async () => {
    const met = await executed(() => service.send('GET', '/products', { token }), 200);
    // What only counts is not part of that order.
    const before = [...(met['onRequest'] ?? []), ...(met['preParsing'] ?? [])].filter(
      (plugin) => plugin !== 'request-metrics',
    );
    expect(before).toEqual([
      'cors',
      'security-headers',
      'rate-limit',
      'request-log',
      'json-body',
      'admission',
      'not-found',
    ]);
  });

  it('give a 429 its request ID and a line in the log', async () => {
    const limited = await support.startServiceForTest({ env: { RATE_LIMIT_MAX: '1' } });
    await limited.send('GET', '/products');
    const answers = await executed(async () => {
      const answer = await limited.send('GET', '/products');
      expect(answer.headers['x-request-id']).toBe((answer.body as { requestId?: string }).requestId);
      return answer;
    }, 429);
    expect(answers).toMatchObject({
      preParsing: [],
      onSend: ['quotas', 'etags', 'request-id'],
      onResponse: ['request-metrics', 'request-log'],
    });
  });
});

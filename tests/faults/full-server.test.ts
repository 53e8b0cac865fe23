// A server with room for fewer connections than its budget says: tenants share the available connections, and requests wait.
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { startCluster, type TestCluster } from '../support/cluster.js';
import { createRegistryIn, startServiceIn, type TestService, type TestTenant } from '../support/service.js';

const TENANTS = 20;

/** Three of them are reserved for the superuser. */
const MAX_CONNECTIONS = 20;

const ENV = { CLUSTER_CONNECTION_BUDGET: '40', CLUSTER_CONNECTION_RESERVE: '4', LOG_LEVEL: 'warn' };

let small: TestCluster;
let stop: () => Promise<void>;
let services: TestService[] = [];
let tenants: TestTenant[] = [];
const log: string[] = [];
const overrides = { logStream: { write: (line: string) => void log.push(line) } };

beforeAll(async () => {
  const shared = inject('cluster');
  ({ cluster: small, stop } = await startCluster({ max_connections: String(MAX_CONNECTIONS) }));
  const registry = await createRegistryIn(shared);
  const place = { ...shared, provisioner: small.provisioner };
  const first = await startServiceIn(place, { registry, env: ENV, overrides });
  services = [first, await startServiceIn(place, { registry, env: ENV, overrides, operator: false })];
  for (let made = 0; made < TENANTS; made += 1) tenants.push(await first.createTenant());
}, 120_000);
afterAll(async () => {
  tenants = [];
  await Promise.all(services.map((service) => service.close()));
  await stop();
});

describe('a server with fewer connections than its budget', () => {
  it('causes a warning at the start that names both numbers', async () => {
    const warning = 'Budget and reserve need 44 connections; the server allows 17 in all.';
    await expect.poll(() => log.filter((line) => line.includes(warning)).length, { timeout: 30_000 }).toBe(2);
  });

  it('answers every request of every tenant within the acquire timeout, on both replicas', async () => {
    const failed: unknown[] = [];
    let asked = 0;
    // Each tenant reads, writes and pauses, all at once. So all tenants need connections, and none keeps one busy.
    const use = async (service: TestService, { adminToken: token }: TestTenant): Promise<void> => {
      for (let turn = 0; turn < 6; turn += 1) {
        const begun = performance.now();
        const answer = await (turn % 2 === 0
          ? service.send('GET', '/products', { token })
          : service.send('POST', '/products', { token, body: { name: 'Chair', price: '1.00', stockQuantity: 1 } }));
        asked += 1;
        if (answer.status >= 300) failed.push([answer.status, Math.round(performance.now() - begun), answer.text]);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    };
    await Promise.all(services.flatMap((service) => tenants.map((tenant) => use(service, tenant))));
    expect(asked).toBe(TENANTS * 2 * 6);
    expect(failed).toEqual([]);
    // The refusals happened: without them this test would prove nothing.
    const leased = services.map(({ app }) => app.engine.governors.at(small.provisioner).tenants.stats().leased);
    expect(Math.min(...leased)).toBeLessThan(MAX_CONNECTIONS);
    expect(log.join('')).toContain('the budget is lowered for now');
  });
});

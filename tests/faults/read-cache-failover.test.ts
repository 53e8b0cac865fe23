// Cached answers over a failover of the tenants' server: what a former primary answered is never read again, on any replica.
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from 'vitest';
import { clusterOn, prepareCluster } from '../support/cluster.js';
import { startCachedReplicas, untilCached, type CachedReplica } from '../support/cached-replicas.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';
import type { Answer } from '../support/service.js';
import { STANDBY_SUPERUSER, startServerPair, type ServerPair } from '../support/standby-server.js';

const SOON = { timeout: 30_000, interval: 20 };

let pair: ServerPair | undefined;
let proxy: Proxy;
let redis: RedisServer;

beforeAll(async () => {
  if (noRedis !== undefined) return;
  const { user, password } = STANDBY_SUPERUSER;
  pair = await startServerPair(({ host, port }) =>
    prepareCluster(clusterOn({ host, port, superuser: user, superuserPassword: password, logFile: undefined })),
  );
  proxy = await startProxy(pair.one);
  redis = await startRedis();
}, 120_000);
afterAll(async () => {
  await pair?.stop();
  if (noRedis !== undefined) return;
  await proxy.close();
  await redis.close();
});

it.skipIf(noRedis !== undefined)(
  `no answer of a former primary is read after the next one acknowledged a write, nor when the former one was killed${redisNote}`,
  async () => {
    if (!pair) throw new Error('there are no servers');
    const { one: former, other: next } = pair;
    const { user, password } = STANDBY_SUPERUSER;
    const { host, port } = proxy;
    const there = clusterOn({ host, port, superuser: user, superuserPassword: password, logFile: undefined });
    const cluster = { ...inject('cluster'), provisioner: there.provisioner };
    const replicas = await startCachedReplicas(cluster, redis, 2, () => ({ offFor: 0, proposeEvery: 300 }), {
      REDIS_TIMEOUT_MS: '1000',
    });
    onTestFinished(() => replicas.close());
    const [moved, left] = replicas.all;
    if (!moved || !left) throw new Error('there are not two replicas');
    const { adminToken: token } = await moved.service.createTenant();
    const body = { name: 'a product', price: '1.00', stockQuantity: 1 };
    const made = await moved.send<{ id: string }>('POST', '/products', { token, body });
    const url = `/products/${made.body.id}`;
    const read = (replica: CachedReplica, headers = {}): Promise<Answer<{ stockQuantity: number }>> =>
      replica.send('GET', url, { token, headers });
    const write = (stockQuantity: number): Promise<Answer> =>
      moved.send('PATCH', url, { token, body: { stockQuantity } });
    await untilCached(moved, () => read(moved));
    await untilCached(left, () => read(left));
    // Its connections stay open to the former primary.
    expect((await read(left, { 'cache-control': 'no-cache' })).body.stockQuantity).toBe(1);
    await former.caughtUp();

    await next.promote();
    proxy.target = { host: next.host, port: next.port };
    moved.service.app.engine.destinations.at(proxy).tookNoWrite();
    await expect.poll(async () => (await write(2)).status, SOON).toBe(200);
    // The former primary still answers this replica, which must not give its answers to the other one.
    const answers = new Set<number>();
    const ends = performance.now() + 4_000;
    while (performance.now() < ends) {
      answers.add((await read(left)).body.stockQuantity);
      await moved.service.app.engine.housekeeping.runNow('read cache');
      expect((await read(moved)).body.stockQuantity).toBe(2);
    }
    expect(answers).toContain(1);

    await former.stop('immediate');
    await untilCached(moved, () => read(moved));
    await expect.poll(async () => (await read(left)).status, SOON).toBe(200);
    expect((await read(left)).body.stockQuantity).toBe(2);
    await untilCached(left, () => read(left));
    expect((await write(3)).status).toBe(200);
    expect([(await read(moved)).body.stockQuantity, (await read(left)).body.stockQuantity]).toEqual([3, 3]);
  },
  120_000,
);

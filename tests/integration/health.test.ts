// Probes: what they answer, and what they cost.
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { SERVER_STATE } from '../../db/driver/proof.js';
import { startService, type TestService } from '../support/app.js';
import { startServiceIn } from '../support/service.js';
import { startStatementProxy, type StatementProxy, type Verdict } from '../support/statement-proxy.js';

describe('the health route', () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
  });
  afterAll(() => service.close());

  it('answers live and ready', async () => {
    expect((await service.send('GET', '/health/live')).status).toBe(200);
    expect((await service.send('GET', '/health/ready')).body).toEqual({ status: 'ok' });
  });

  it('answers unready and live while the service drains', async () => {
    service.app.readiness.draining = true;
    const ready = await service.send('GET', '/health/ready');
    expect(ready.status).toBe(503);
    expect(ready.headers['retry-after']).toBe('5');
    expect((await service.send('GET', '/health/live')).status).toBe(200);
    service.app.readiness.draining = false;
  });

  it('is not counted by the rate limit', async () => {
    const limited = await startService({ env: { RATE_LIMIT_MAX: '3' } });
    for (let probe = 0; probe < 10; probe += 1) expect((await limited.send('GET', '/health/live')).status).toBe(200);
    await limited.close();
  });
});

describe('many probes at once', () => {
  const FEED = 'tenantry events';
  const PROBES = 200;

  let proxy: StatementProxy;
  let service: TestService;
  /** Checks of the registry, those of new connections included. */
  let checks: number;
  let feedIsHeld = false;
  beforeAll(async () => {
    const cluster = inject('cluster');
    proxy = await startStatementProxy(cluster.superuser);
    const { host, port } = proxy;
    const superuser = { ...cluster.superuser, host, port };
    service = await startServiceIn({ ...cluster, superuser });
    proxy.onStatement = async ({ sql, application }): Promise<Verdict> => {
      if (application === FEED && feedIsHeld) await new Promise(() => undefined);
      if (application !== FEED && sql === `select ${SERVER_STATE}`) checks += 1;
      return 'pass';
    };
  });
  afterAll(async () => {
    await service.close();
    await proxy.close();
  });

  const probe = async (): Promise<number[]> => {
    checks = 0;
    const ready = async (): Promise<number> => (await service.send('GET', '/health/ready')).status;
    return Promise.all(Array.from({ length: PROBES }, ready));
  };

  it('send no query while the feed gets answers', async () => {
    await expect.poll(() => service.app.engine.events.answering).toBe(true);
    expect(new Set(await probe())).toEqual(new Set([200]));
    expect(checks).toBe(0);
  });

  it('share a few queries while the feed gets none', async () => {
    feedIsHeld = true;
    await expect.poll(() => service.app.engine.events.answering).toBe(false);
    expect(new Set(await probe())).toEqual(new Set([200]));
    expect(checks).toBeGreaterThan(0);
    // A new connection is checked too, and on a busy machine the probes are not all at once.
    expect(checks).toBeLessThan(PROBES / 10);
    feedIsHeld = false;
    await expect.poll(() => service.app.engine.events.answering, { timeout: 30_000 }).toBe(true);
  });
});

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startService, type TestService } from '../support/app.js';

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

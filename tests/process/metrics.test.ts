// The port of the metrics as a process has it: what its start refuses, and that it answers until the service has stopped.
import { connect, createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseExposition } from '../support/exposition.js';
import { build, eventually, isRunning, makeDataDir, runProgram, startProcess } from '../support/service-process.js';

// A first start makes a PostgreSQL, which takes long on a busy processor.
describe('the port of the metrics', { timeout: 90_000 }, () => {
  let data: Awaited<ReturnType<typeof makeDataDir>>;
  beforeAll(async () => {
    await build();
    data = await makeDataDir();
  });
  afterAll(() => data.remove());

  it('answers while the service drains and closes, after clients are sent elsewhere', async () => {
    const service = await startProcess({ DATA_DIR: data.dir, METRICS_PORT: '0', SHUTDOWN_DRAIN_MS: '2000' });
    const [, metrics = ''] = /Metrics are served on (http:\S+)\/metrics/.exec(service.stdout) ?? [];
    const scrape = async (): Promise<number> => (await fetch(`${metrics}/metrics`)).status;
    try {
      expect(await scrape()).toBe(200);
      expect((await fetch(`${service.url}/metrics`)).status).toBe(404);
      const held = connect(Number(new URL(service.url).port), '127.0.0.1');
      held.write('POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n');
      service.signal('SIGTERM');
      await eventually('not ready', async () => (await fetch(`${service.url}/health/ready`)).status === 503);
      expect(await scrape()).toBe(200);
      await eventually('no new clients', async () =>
        fetch(`${service.url}/health/live`).then(
          () => false,
          () => true,
        ),
      );
      // The service waits for the request whose body has not come, and the metrics say so.
      const text = await (await fetch(`${metrics}/metrics`)).text();
      expect(parseExposition(text).sum('tenantry_http_requests_in_flight')).toBe(1);
      held.destroy();
      expect(await service.exited).toBe(0);
    } finally {
      if (isRunning(service.pid)) service.signal('SIGKILL');
    }
    await expect(scrape()).rejects.toThrow();
  });

  it('is refused in one sentence at the start if another program has it', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as AddressInfo;
    try {
      const run = await runProgram('src/server.js', {
        DATA_DIR: data.dir,
        PORT: '0',
        LOG_LEVEL: 'silent',
        METRICS_PORT: String(port),
      });
      expect(run.code).toBe(1);
      expect(run.stderr).toBe(
        `METRICS_PORT: another program listens on port ${port} of 127.0.0.1. Stop it, or set METRICS_PORT to another port.\n`,
      );
    } finally {
      other.close();
    }
  });

  it('is refused if it is the port of the service', async () => {
    const run = await runProgram('src/server.js', { DATA_DIR: data.dir, PORT: '3999', METRICS_PORT: '3999' });
    expect(run.code).toBe(1);
    expect(run.stderr).toBe(
      'The configuration is not usable:\n  - METRICS_PORT is PORT: metrics need a port of their own, which clients cannot reach\n',
    );
  });
});

// The level of the log of a running process is changed by SIGUSR2, and no signal opens Node's inspector in production.
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { runScript } from '../support/shell.js';
import { createRegistry, urlOf } from '../support/app.js';
import { build, eventually, makeDataDir, startProcess, type ServiceProcess } from '../support/service-process.js';

interface Line extends Record<string, unknown> {
  readonly level: string;
  readonly msg: string;
}

const linesOf = (service: ServiceProcess): Line[] =>
  service.stdout
    .split('\n')
    .filter((line) => line.startsWith('{') && line.endsWith('}'))
    .map((line) => JSON.parse(line) as Line);

/** Of the change of the level, the newest. */
const lastChange = (service: ServiceProcess): Line | undefined =>
  linesOf(service).findLast(({ logLevel }) => logLevel !== undefined);

async function levelIs(service: ServiceProcess, logLevel: string): Promise<void> {
  await eventually(`the level is ${logLevel}`, () => lastChange(service)?.['logLevel'] === logLevel);
}

/** A refused request has a line of its own at the level debug. */
const refusals = (service: ServiceProcess): Line[] => linesOf(service).filter(({ msg }) => msg === 'refused a request');

const INSPECTOR = 9_229;

async function isOpen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => {
      resolve(false);
    });
  });
}

// Windows has neither signal.
describe.skipIf(process.platform === 'win32')('the log of a running process', { timeout: 90_000 }, () => {
  let data: Awaited<ReturnType<typeof makeDataDir>>;
  let env: Record<string, string>;
  let service: ServiceProcess;
  beforeAll(async () => {
    await build();
    data = await makeDataDir();
    const { superuser, registryService, provisioner } = inject('cluster');
    env = {
      DATA_DIR: data.dir,
      DATABASE_URL: urlOf({ ...superuser, ...registryService, database: await createRegistry() }),
      TENANT_DATABASE_URL: urlOf(provisioner),
      SHUTDOWN_DRAIN_MS: '0',
      STANDBY_DATABASES: '0',
    };
    service = await startProcess(env);
  });
  afterAll(async () => {
    await end(service);
    await data.remove();
  });

  async function end(ended: ServiceProcess): Promise<void> {
    ended.signal('SIGTERM');
    await ended.exited;
  }

  it('is at debug after SIGUSR2 and at LOG_LEVEL after a second one, and a line says each', async () => {
    await fetch(`${service.url}/users`);
    // As docs/guide/logs.md says it.
    await runScript(`PID=${service.pid}\nkill -USR2 "$PID"`, { cwd: data.dir });
    await levelIs(service, 'debug');
    expect(lastChange(service)?.msg).toBe('the log level is debug for 15 minutes: SIGUSR2 returns to info at once');
    expect(refusals(service)).toEqual([]);
    await fetch(`${service.url}/users`, { headers: { traceparent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01` } });
    await eventually('a refused request has its line', () => refusals(service).length === 1);
    expect(refusals(service)[0]).toMatchObject({
      level: 'debug',
      traceId: 'a'.repeat(32),
      err: { code: 'unauthenticated' },
    });

    service.signal('SIGUSR2');
    await levelIs(service, 'info');
    expect(lastChange(service)?.msg).toContain('the log level is info again');
    await fetch(`${service.url}/users`);
    service.signal('SIGUSR2');
    await levelIs(service, 'debug');
    expect(refusals(service)).toHaveLength(1);
  });

  it('shows the change at once, although lines wait in a buffer', async () => {
    // The test before has left the level at debug.
    service.signal('SIGUSR2');
    await levelIs(service, 'info');
    service.signal('SIGUSR2');
    await levelIs(service, 'debug');
    expect(lastChange(service)).toMatchObject({ level: 'info', until: expect.stringMatching(/Z$/) as string });
  });

  it('says in its first line which process it is', () => {
    expect(service.stdout).toContain(`; the process is ${service.pid}`);
  });

  it('says in production that SIGUSR1 has no effect, and opens no inspector', async () => {
    const token = randomBytes(32).toString('base64');
    const production = await startProcess({
      ...env,
      NODE_ENV: 'production',
      DATABASE_TLS: 'off',
      JWT_SECRET: token,
      ENCRYPTION_KEYS: `k1:${token}`,
      OPERATOR_EMAIL: 'operator@example.com',
      OPERATOR_PASSWORD: 'a-password-for-operators',
    });
    onTestFinished(() => end(production));
    const opened = await isOpen(INSPECTOR);
    production.signal('SIGUSR1');
    await eventually('the signal has its line', () => linesOf(production).some(({ signal }) => signal === 'SIGUSR1'));
    // Another program of this machine may have it open: then this proves nothing, and the line above does.
    if (!opened) expect(await isOpen(INSPECTOR)).toBe(false);
    expect((await fetch(`${production.url}/health/live`)).status).toBe(200);
  });
});

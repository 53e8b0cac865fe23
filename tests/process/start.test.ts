// Starts, stops and kills the service, as a newcomer and an operator do.
import { existsSync } from 'node:fs';
import { readFile, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  build,
  eventually,
  isRunning,
  makeDataDir,
  runProgram,
  startProcess,
  type ServiceProcess,
} from '../support/service-process.js';

const ADMIN = { email: 'ada@acme.example', password: 'correct horse battery', firstName: 'Ada', lastName: 'Acme' };

// A first start makes a PostgreSQL, which takes long on a busy processor.
describe('a start without any configuration', { timeout: 90_000 }, () => {
  let data: Awaited<ReturnType<typeof makeDataDir>>;
  let operatorPassword: string;
  const started: ServiceProcess[] = [];

  beforeAll(async () => {
    await build();
    data = await makeDataDir();
  });
  afterEach(async () => {
    for (const service of started.splice(0)) {
      if (isRunning(service.pid)) service.signal('SIGTERM');
      await service.exited;
    }
  });
  afterAll(() => data.remove());

  async function start(env: Readonly<Record<string, string>> = {}): Promise<ServiceProcess> {
    const service = await startProcess({ DATA_DIR: data.dir, ...env });
    started.push(service);
    return service;
  }

  async function postgresPid(): Promise<number> {
    const text = await readFile(path.join(data.dir, 'postgres', 'postmaster.pid'), 'utf8');
    return Number(text.split('\n')[0]);
  }

  async function call(
    service: ServiceProcess,
    route: string,
    init: RequestInit = {},
    token?: string,
  ): Promise<Response> {
    return fetch(service.url + route, {
      ...init,
      headers: { 'content-type': 'application/json', ...(token !== undefined && { authorization: `Bearer ${token}` }) },
    });
  }

  const post = (body: unknown): RequestInit => ({ method: 'POST', body: JSON.stringify(body) });

  async function tokenFrom(answer: Response): Promise<string> {
    expect(answer.status).toBe(200);
    return ((await answer.json()) as { accessToken: string }).accessToken;
  }

  const signInAsOperator = async (service: ServiceProcess): Promise<string> =>
    tokenFrom(
      await call(
        service,
        '/auth/operator/login',
        post({ email: 'operator@tenantry.local', password: operatorPassword }),
      ),
    );

  const signInAsAdmin = async (service: ServiceProcess): Promise<string> =>
    tokenFrom(
      await call(service, '/auth/login', post({ tenant: 'acme', email: ADMIN.email, password: ADMIN.password })),
    );

  it('gives a running service, and leaves the operator’s sign-in in a file of its own, not in the log', async () => {
    const service = await start();
    operatorPassword = service.operatorPassword ?? '';
    expect(operatorPassword).not.toBe('');
    const token = await signInAsOperator(service);
    const made = await call(service, '/tenants', post({ name: 'Acme', admin: ADMIN }), token);
    expect(made.status).toBe(201);
    const adminToken = await signInAsAdmin(service);
    expect((await call(service, '/products', post({ name: 'Lamp', price: '12.50' }), adminToken)).status).toBe(201);
    const file = path.join(data.dir, 'operator.env');
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect(service.stdout).toContain(`the sign-in of the first operator is in ${file}`);
    expect(service.stdout).not.toContain(operatorPassword);
    // Each step of the start is a line of the log, and the log has nothing else.
    const lines = service.stdout
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { msg: string }).msg);
    expect(lines[0]).toMatch(/^starting: /);
    expect(lines).toContain('starting: creating the first operator');
  });

  it('keeps secrets and data when repeated, and writes no sign-in again', async () => {
    const secrets = path.join(data.dir, 'secrets.json');
    expect((await stat(secrets)).mode & 0o777).toBe(0o600);
    const file = path.join(data.dir, 'operator.env');
    await rm(file);
    const service = await start();
    expect(existsSync(file)).toBe(false);
    expect(service.stdout).not.toContain('first operator');
    const products = await call(service, '/products', {}, await signInAsAdmin(service));
    expect(((await products.json()) as { data: { name: string }[] }).data.map(({ name }) => name)).toEqual(['Lamp']);
  });

  it('gives a service that stops on SIGTERM with every request answered, and stops its PostgreSQL', async () => {
    // The kernel resets connections that wait to be accepted while the port closes: draining avoids that.
    const service = await start({ SHUTDOWN_DRAIN_MS: '5000' });
    const token = await signInAsAdmin(service);
    const postgres = await postgresPid();
    const answers: Promise<number>[] = [];
    for (let request = 0; request < 50; request += 1) {
      answers.push(
        call(service, '/products', post({ name: `P${request}`, price: 1 }), token).then((answer) => answer.status),
      );
    }
    // The first answer shows that the other requests are on their way.
    await Promise.race(answers);
    service.signal('SIGTERM');
    expect(new Set(await Promise.all(answers))).toEqual(new Set([201]));
    expect(await service.exited).toBe(0);
    expect(isRunning(postgres)).toBe(false);
  });

  it('gives a service that is unready while it drains, closes connections with their answers, and ends at once on a second signal', async () => {
    const service = await start({ SHUTDOWN_DRAIN_MS: '600000' });
    const postgres = await postgresPid();
    expect((await call(service, '/health/live')).headers.get('connection')).toBe('keep-alive');
    service.signal('SIGTERM');
    await eventually('unready', async () => (await call(service, '/health/ready')).status === 503);
    const alive = await call(service, '/health/live');
    expect([alive.status, alive.headers.get('connection')]).toEqual([200, 'close']);
    service.signal('SIGTERM');
    expect(await service.exited).toBe(1);
    await eventually('PostgreSQL ends', () => !isRunning(postgres));
  });

  it('recovers after a kill -9 of the service', async () => {
    const killed = await start();
    const orphan = await postgresPid();
    killed.signal('SIGKILL');
    await killed.exited;
    expect(isRunning(orphan)).toBe(true);
    const service = await start();
    expect((await call(service, '/products', {}, await signInAsAdmin(service))).status).toBe(200);
    expect(isRunning(orphan)).toBe(false);
  });

  it('gives a service that recovers from a kill -9 of its PostgreSQL without a restart', async () => {
    const service = await start();
    const token = await signInAsAdmin(service);
    process.kill(await postgresPid(), 'SIGKILL');
    await eventually('served again', async () => (await call(service, '/products', {}, token)).status === 200);
    expect(isRunning(service.pid)).toBe(true);
  });

  it('is refused on a data folder that is in use, with a sentence', async () => {
    await start();
    const second = await runProgram('src/server.js', { DATA_DIR: data.dir, PORT: '0' });
    expect(second.code).toBe(1);
    expect(second.stderr).toMatch(/ is in use by another running service: .*\n$/);
    expect(second.stderr.trim().split('\n')).toHaveLength(1);
  });
});

describe('a start in production', () => {
  it('generates no secrets: it lists everything that is missing, and ends', async () => {
    const { code, stderr } = await runProgram('src/server.js', { NODE_ENV: 'production', PORT: 'http' });
    expect(code).toBe(1);
    for (const name of ['PORT', 'DATABASE_URL', 'DATABASE_TLS', 'JWT_KEYS', 'ENCRYPTION_KEYS'])
      expect(stderr).toContain(`- ${name}`);
    expect(stderr).not.toMatch(/^\s+at /m);
  });
});

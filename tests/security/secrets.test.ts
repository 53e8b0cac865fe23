// Searches for the passwords of databases in all output: each route's answers, good and bad, the most detailed log, and
// PostgreSQL's own. tests/isolation/postgres.test.ts searches the output of an ordinary session for the same secrets.
import { sql } from 'kysely';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, inject, it, vi } from 'vitest';
import { scramVerifier } from '../../db/server/scram.js';
import type { RouteEntry } from '../../src/auth/route-access.js';
import { createEnvelope } from '../../src/secrets/envelope.js';
import {
  beginSession,
  asSuperuser,
  createRegistry,
  startService,
  tokenSecretsOf,
  type TestService,
  type TestTenant,
} from '../support/app.js';

const { logFile, provisioner, registryOwner, registryService, superuser } = inject('cluster');
const PATIENCE = 10_000;

/** All answers. */
const answers: string[] = [];
const logged: string[] = [];
const logStream = {
  write(text: string): void {
    logged.push(text);
  },
};

let registry: string;
let service: TestService;
let tenant: TestTenant;
/** By their names, in each spelling in which they could leak. */
let secrets: Map<string, string>;
let dbUser: string;

beforeAll(async () => {
  registry = await createRegistry();
  service = await startLoud();
  tenant = await service.createTenant('acme');
  const row = await service.app.engine.registry
    .selectFrom('tenants')
    .select(['id', 'db_host', 'db_port', 'db_user', 'db_password'])
    .where('id', '=', tenant.id)
    .executeTakeFirstOrThrow();
  dbUser = row.db_user;
  const own = createEnvelope(service.config.encryptionKeys).open(row.db_password, {
    id: row.id,
    host: row.db_host,
    port: row.db_port,
    user: row.db_user,
  });
  expect(own).toMatch(/^[\w-]{43}$/);
  secrets = new Map(
    Object.entries({
      'the tenant’s database password': own,
      'its envelope': row.db_password,
      'the provisioner’s password': provisioner.password,
      'the registry owner’s password': registryOwner.password,
      'the password that enters the registry': registryService.password,
      'the superuser’s password': superuser.password,
      'the token key': tokenSecretsOf(service.config).jwk,
      'the token key in PEM': tokenSecretsOf(service.config).pem,
    }).flatMap(([what, secret]) => {
      const bytes = Buffer.from(secret);
      return [
        [what, secret],
        [`${what} in base64`, bytes.toString('base64').replace(/=+$/, '')],
        [`${what} in base64url`, bytes.toString('base64url')],
        [`${what} in hexadecimal`, bytes.toString('hex')],
        [`${what} backwards`, Array.from(secret).reverse().join('')],
      ];
    }),
  );
});
afterAll(() => service.close());

function startLoud(): Promise<TestService> {
  return startService({ registry, env: { LOG_LEVEL: 'trace' }, overrides: { logStream } });
}

function found(text: string): string[] {
  return [...secrets].filter(([, secret]) => text.includes(secret)).map(([what]) => what);
}

/** Calls every route in every way, and keeps the answers. Returns the statuses. */
async function askEverything({ app }: TestService, owner: { id: string; token: string }): Promise<Set<number>> {
  const statuses = new Set<number>();
  const bodies = [undefined, '{', '{"dbPassword":"x"}', '{"name":"x"}', '{"name":"x","price":"1"}', '{"delta":1}'];
  const ask = async (route: RouteEntry, token: string | undefined, payload: string | undefined): Promise<void> => {
    // Not the tenant itself: later requests need it.
    const id = route.method === 'DELETE' ? '01900000-0000-7000-8000-00000000ffff' : owner.id;
    const answer = await app.inject({
      method: route.method as 'GET',
      url: route.url.replace(':id', id).replace('*', 'index.html'),
      headers: {
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
        ...(payload !== undefined && { 'content-type': 'application/json' }),
      },
      ...(payload !== undefined && { payload }),
    });
    statuses.add(answer.statusCode);
    answers.push(`${route.method} ${route.url} ${JSON.stringify(answer.headers)} ${answer.body}`);
  };
  // Last come the routes that end the callers' sessions.
  const last = ({ url }: RouteEntry): boolean => /\/(?:sign-out|logout|logout-all|suspend|purge)$/.test(url);
  const routes = [...app.routeTable.filter((route) => !last(route)), ...app.routeTable.filter(last)];
  for (const route of routes) {
    for (const token of [undefined, 'x.y.z', service.operatorToken, owner.token]) {
      const reads = route.method === 'POST' || route.method === 'PATCH';
      for (const body of reads ? bodies : [undefined]) await ask(route, token, body);
    }
  }
  return statuses;
}

async function exposition({ app }: TestService): Promise<string> {
  return (await app.engine.metrics.expose()).body;
}

it('no route answers with a database password, whatever the request', async () => {
  const statuses = await askEverything(service, { id: tenant.id, token: tenant.adminToken });
  for (const status of [200, 201, 400, 401, 403, 404]) expect(statuses).toContain(status);
  expect(answers.filter((answer) => found(answer).length > 0)).toEqual([]);
});

it('the description of the API contains no database password', async () => {
  for (const url of ['/docs/json', '/docs/yaml']) {
    const { body } = await service.app.inject(url);
    expect(body.length).toBeGreaterThan(1_000);
    expect(found(body)).toEqual([]);
  }
});

it('the metrics contain no database password and no e-mail address', async () => {
  const text = await exposition(service);
  expect(text).toContain('tenantry_http_request_duration_seconds_count{method="POST",route="/auth/login"');
  expect(found(text)).toEqual([]);
  expect(text).not.toMatch(/[\w.+-]+@[\w-]+\.\w+/);
});

it('no answer and no log contains a database password that PostgreSQL refuses, nor does PostgreSQL’s own log', async () => {
  const token = await beginSession(service.app, { kind: 'user', tenantId: tenant.id, userId: tenant.adminId });
  const verifier = await scramVerifier('another-password', 4_096);
  await asSuperuser('postgres', (db) => sql`alter role ${sql.id(dbUser)} password ${sql.lit(verifier)}`.execute(db));
  // A process without a connection, which must open its first with the password that is wrong now.
  const cold = await startLoud();
  try {
    const statuses = await askEverything(cold, { id: tenant.id, token });
    expect([...statuses].some((status) => status >= 500)).toBe(true);
    expect(found(await exposition(cold))).toEqual([]);
  } finally {
    await cold.close();
  }
  expect(answers.filter((answer) => found(answer).length > 0)).toEqual([]);
  expect(logged.join('')).toContain('28P01');
  if (logFile === undefined) return;
  const log = await vi.waitFor(
    async () => {
      const text = await readFile(logFile, 'utf8');
      expect(text).toContain(`password authentication failed for user "${dbUser}"`);
      return text;
    },
    { timeout: PATIENCE },
  );
  expect(found(log)).toEqual([]);
});

it('the trace log of all these requests contains no database password', () => {
  const log = logged.join('');
  expect(log.split('\n').length).toBeGreaterThan(100);
  expect(found(log)).toEqual([]);
});

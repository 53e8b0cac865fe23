// After a walk over every route with an Idempotency-Key on each write, no database holds a password or a token that was sent.
import { sql } from 'kysely';
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ADMIN, asSuperuser, OPERATOR, startService, type Send, type TestService } from '../support/app.js';
import { walkTenant } from '../support/tenant-walk.js';
import { rowOf } from '../support/tenants.js';

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.close());

/** Every row of every table of a database, as text. */
async function dump(database: string): Promise<string> {
  return asSuperuser(database, async (db) => {
    const { rows: tables } = await sql<{ name: string }>`
      select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'`.execute(db);
    const texts: string[] = [];
    for (const { name } of tables) {
      const { rows } = await sql<{ text: string }>`select t::text as text from ${sql.raw(name)} t`.execute(db);
      texts.push(...rows.map(({ text }) => `${name} ${text}`));
    }
    return texts.join('\n');
  });
}

/** Sends with a key on each write that takes one, and collects what must not be stored. */
function collecting(secrets: Set<string>): Send {
  return async (method, url, options = {}) => {
    const keyed = method !== 'GET' && !url.startsWith('/auth');
    const headers = { ...options.headers, ...(keyed && { 'idempotency-key': randomUUID() }) };
    const answer = await service.send(method, url, { ...options, headers });
    for (const [name, value] of [
      ...Object.entries(options.body ?? {}),
      ...Object.entries((answer.body as object | null) ?? {}),
    ])
      if (/password|token/i.test(name) && typeof value === 'string') secrets.add(value);
    if (options.token) secrets.add(options.token);
    return answer as never;
  };
}

it('keeps no password and no token in any database', async () => {
  const secrets = new Set([ADMIN.password, OPERATOR.password, service.operatorToken]);
  const send = collecting(secrets);
  const slug = 'dumped';
  const made = await send<{ id: string }>('POST', '/tenants', {
    token: service.operatorToken,
    body: { name: 'Dumped', slug, admin: ADMIN },
  });
  expect(made.status, made.text).toBe(201);
  const { dbName } = await rowOf(service, made.body);
  await walkTenant(send, { id: made.body.id, slug });
  expect(secrets.size).toBeGreaterThan(15);

  const dumps = [await dump(dbName), await dump(service.config.registry.connection.database)];
  // The dumps have what was written: the answers of keyed writes, the sessions and the audit.
  expect(dumps[0]).toMatch(/^idempotency_keys .*Widget 2/m);
  for (const text of dumps) expect(text).toMatch(/^audit /m);
  // A token is also searched without its signature, and a password as bytes.
  const forms = [...secrets].flatMap((secret) => [
    secret,
    secret.split('.').slice(0, 2).join('.'),
    Buffer.from(secret).toString('hex'),
    Buffer.from(secret).toString('base64'),
  ]);
  for (const text of dumps) expect(forms.filter((form) => text.includes(form))).toEqual([]);
});

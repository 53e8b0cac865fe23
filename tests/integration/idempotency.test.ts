// Idempotency-Key on POST /tenants: a repeated request creates no second tenant, and another request with the key is refused.
import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenantBySlug, updateTenant } from '../../db/registry/tenant-queries.js';
import { createLockSession } from '../../db/registry/lock-session.js';
import { createTenantLocks } from '../../src/tenants/tenant-locks.js';
import { createRequestHash } from '../../src/operations/create/request-hash.js';
import {
  ADMIN,
  beginSession,
  connectAs,
  createRegistry,
  startService,
  type Answer,
  type TestService,
} from '../support/app.js';
import { markAgain } from '../support/tenants.js';
import { exchange, expectProblem, listen } from '../support/wire.js';

let registryName: string;
let service: TestService;
let registry: Kysely<Registry>;
let failAt: string | undefined;

beforeAll(async () => {
  registryName = await createRegistry();
  service = await startService({
    registry: registryName,
    env: { RECONCILE_EVERY_MS: '3600000' },
    overrides: {
      afterOperationStep: (_kind, step) => {
        if (step === failAt) throw new Error('made to fail');
      },
    },
  });
  registry = service.app.engine.registry;
});
afterAll(() => service.close());

interface Sent {
  readonly id: string;
  readonly code: string;
}

function make(slug: string, key: string, more: object = {}, token = service.operatorToken): Promise<Answer<Sent>> {
  return service.send('POST', '/tenants', {
    token,
    body: { name: 'Asked for twice', slug, admin: ADMIN, ...more },
    headers: { 'idempotency-key': key },
  });
}

/** As if the processes of all earlier requests had ended before they stored their answers. */
async function forgetAnswers(): Promise<void> {
  await registry.deleteFrom('request_answers').execute();
}

it('the same key and request get the same tenant and the first answer', async () => {
  const made = await make('same', 'key-same');
  expect(made.status, made.text).toBe(201);
  const again = await make('same', 'key-same');
  expect(again).toMatchObject({ status: 201, body: made.body });
  expect(again.headers).toMatchObject({ location: `/tenants/${made.body.id}`, 'idempotent-replayed': 'true' });
  expect(made.headers).not.toHaveProperty('idempotent-replayed');
  // The order of keys in the body does not matter.
  const { name, ...body } = { name: 'Asked for twice', slug: 'same', admin: ADMIN };
  const turned = await service.send('POST', '/tenants', {
    token: service.operatorToken,
    body: { ...body, name },
    headers: { 'idempotency-key': 'key-same' },
  });
  expect(turned).toMatchObject({ status: 201, body: { id: made.body.id } });
});

it('the same request with another key gets 409: the slug is taken', async () => {
  expect((await make('twice', 'key-1')).status).toBe(201);
  expect(await make('twice', 'key-2')).toMatchObject({ status: 409, body: { code: 'slug-taken' } });
});

it.each<[string, object]>([
  ['name', { name: 'Another' }],
  ['slug', { slug: 'reused-other' }],
  ['password', { admin: { ...ADMIN, password: 'another-password-1' } }],
  ['pool options', { poolOptions: { max: 3 } }],
])('another request with the same key is refused: another %s', async (_what, more) => {
  await make('reused', 'key-reused');
  expect(await make('reused', 'key-reused', more)).toMatchObject({
    status: 422,
    body: { code: 'idempotency-key-reused' },
  });
  expect(await findTenantBySlug(registry, 'reused-other')).toBeUndefined();
});

it('simultaneous requests with one key create one tenant; the others get 409 with Retry-After', async () => {
  const answers = await Promise.all(Array.from({ length: 5 }, () => make('at-once', 'key-at-once')));
  const made = answers.filter(({ status }) => status === 201);
  expect(made.length).toBeGreaterThan(0);
  expect(new Set(made.map(({ body }) => body.id)).size).toBe(1);
  for (const answer of answers.filter(({ status }) => status !== 201)) {
    expect(answer).toMatchObject({ status: 409, body: { code: 'idempotency-key-in-use' } });
    expect(answer.headers['retry-after']).toBe('1');
  }
  expect(await make('at-once', 'key-at-once')).toMatchObject({ status: 201, body: { id: made[0]?.body.id } });
});

it('two operators can use the same key for different tenants', async () => {
  await insertOperator(registry, { email: 'second@example.com', passwordHash: 'not used' });
  const second = await findOperatorByEmail(registry, 'second@example.com');
  const token = await beginSession(service.app, { kind: 'operator', operatorId: second?.id ?? '' });
  const [mine, theirs] = [await make('own-1', 'key-own'), await make('own-2', 'key-own', {}, token)];
  expect([mine.status, theirs.status]).toEqual([201, 201]);
  expect(mine.body.id).not.toBe(theirs.body.id);
});

describe('if the first attempt', () => {
  /** The tenant and its operation, as they are before the last step. */
  async function beUnfinished(id: string): Promise<void> {
    await forgetAnswers();
    await registry.updateTable('tenants').set({ status: 'provisioning' }).where('id', '=', id).execute();
    await registry
      .updateTable('operations')
      .set({ state: 'running', ended_at: null })
      .where('subject', '=', id)
      .where('kind', '=', 'create')
      .execute();
  }

  it('failed and was undone, the same request creates the tenant', async () => {
    failAt = 'fill';
    const failed = await make('failed', 'key-failed').finally(() => (failAt = undefined));
    expect(failed).toMatchObject({ status: 503, body: { code: 'provisioning-failed' } });
    expect((await make('failed', 'key-failed')).status).toBe(201);
  });

  it('ended with its process before the mark, the same request undoes the rest and creates the tenant', async () => {
    const first = await make('died', 'key-died');
    await beUnfinished(first.body.id);
    await markAgain(service, first.body.id, 'making');
    const again = await make('died', 'key-died');
    expect(again.status, again.text).toBe(201);
    expect(again.body.id).not.toBe(first.body.id);
  });

  it('ended with its process just before the last step, the same request answers with the tenant of the first', async () => {
    const first = await make('nearly', 'key-nearly');
    await beUnfinished(first.body.id);
    const again = await make('nearly', 'key-nearly');
    expect(again).toMatchObject({ status: 201, body: { id: first.body.id, status: 'active' } });
    expect(again.headers['idempotent-replayed']).toBe('true');
  });

  it('still runs, the same request gets 409 with Retry-After', async () => {
    const first = await make('under-way', 'key-under-way');
    await beUnfinished(first.body.id);
    const other = connectAs<Registry>(registryName);
    await createTenantLocks(createLockSession(other.db, () => undefined)).attempt(first.body.id, async () => {
      const again = await make('under-way', 'key-under-way');
      expect(again).toMatchObject({ status: 409, body: { code: 'idempotency-key-in-use' } });
      expect(again.headers['retry-after']).toBe('1');
    });
    await other.close(0);
    await updateTenant(registry, first.body.id, { status: 'active' }, ['provisioning']);
    expect(await make('under-way', 'key-under-way')).toMatchObject({ status: 201, body: { id: first.body.id } });
  });

  it('made a tenant that was changed later, the same request gets the first answer', async () => {
    const made = await make('suspended', 'key-suspended');
    const { id } = made.body;
    await updateTenant(registry, id, { status: 'suspended' }, ['active']);
    expect(await make('suspended', 'key-suspended')).toMatchObject({ status: 201, text: made.text });
    // If it was not stored, the tenant as it is now.
    await forgetAnswers();
    const again = await make('suspended', 'key-suspended');
    expect(again).toMatchObject({ status: 201, body: { id, status: 'suspended' } });
    expect(again.headers['idempotent-replayed']).toBe('true');
  });

  it('made a tenant that was removed later, the same request creates no other', async () => {
    const made = await make('removed', 'key-removed');
    for (const [method, path] of [
      ['DELETE', ''],
      ['POST', '/purge'],
    ] as const) {
      const answer = await service.send(method, `/tenants/${made.body.id}${path}`, { token: service.operatorToken });
      expect(answer.status, answer.text).toBe(204);
    }
    expect(await make('removed', 'key-removed')).toMatchObject({ status: 201, text: made.text });
    await forgetAnswers();
    expect(await make('removed', 'key-removed')).toMatchObject({
      status: 422,
      body: { code: 'idempotency-key-reused' },
    });
    expect(await findTenantBySlug(registry, 'removed')).toBeUndefined();
  });
});

it.each([
  ['empty', ''],
  ['too long', 'k'.repeat(201)],
  ['with a space', 'a key'],
  ['with a letter beyond ASCII', 'schlüssel'],
])('a key that is %s is refused', async (_what, key) => {
  expect(await make('bad-key', key)).toMatchObject({ status: 400, body: { code: 'invalid-request' } });
});

it('a request with two keys is refused', async () => {
  const answer = await exchange(await listen(service), 'POST', '/tenants', {
    headers: {
      authorization: `Bearer ${service.operatorToken}`,
      'content-type': 'application/json',
      'idempotency-key': ['key-one', 'key-two'],
    },
    body: JSON.stringify({ name: 'Asked for twice', slug: 'two-keys', admin: ADMIN }),
  });
  expectProblem(answer, 400, 'invalid-request');
  expect(await findTenantBySlug(registry, 'two-keys')).toBeUndefined();
});

it('a key of 200 characters is accepted', async () => {
  expect((await make('long-key', 'k'.repeat(200))).status).toBe(201);
});

it('a key is valid for 24 hours, and then deleted', async () => {
  const { body } = await make('kept', 'key-kept');
  const age = async (hours: number): Promise<void> => {
    const at = { created_at: sql<string>`now() - make_interval(hours => ${hours})` };
    await registry.updateTable('operations').set(at).where('request_key', '=', 'key-kept').execute();
    await registry.updateTable('request_answers').set(at).execute();
  };
  const sweep = () => service.app.engine.housekeeping.runNow('idempotency keys');
  await age(23);
  await sweep();
  expect(await make('kept', 'key-kept')).toMatchObject({ status: 201, body: { id: body.id } });
  await age(25);
  expect(await make('kept', 'key-kept')).toMatchObject({ status: 409, body: { code: 'slug-taken' } });
  await make('kept-too', 'key-kept');
  await age(25);
  await sweep();
  const operations = registry.selectFrom('operations').select('request_key').where('request_key', '=', 'key-kept');
  expect(await operations.execute()).toEqual([]);
  expect(await registry.selectFrom('request_answers').select('id').execute()).toEqual([]);
});

it('the stored hash of a request cannot be guessed without the service’s key', async () => {
  await make('keyed', 'key-keyed');
  const { request_tag } = await registry
    .selectFrom('operations')
    .select('request_tag')
    .where('request_key', '=', 'key-keyed')
    .executeTakeFirstOrThrow();
  const hash = request_tag ?? '';
  expect(hash).toMatch(/^test\.[\w-]{43}$/);
  const body = { name: 'Asked for twice', slug: 'keyed', admin: ADMIN };
  const withKey = (byte: number): ReturnType<typeof createRequestHash> =>
    createRequestHash([{ kid: 'test', key: Buffer.alloc(32, byte) }]);
  expect(withKey(7).matches(body, hash)).toBe(true);
  expect(withKey(7).matches({ ...body, slug: 'other' }, hash)).toBe(false);
  expect(withKey(8).matches(body, hash)).toBe(false);
});

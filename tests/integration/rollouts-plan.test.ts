// How rollouts are planned, steered and listed. No database of a tenant is entered: the tenants are rows only.
import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findOperatorByEmail } from '../../db/registry/operator-queries.js';
import { SERVICE } from '../../src/audit/operator-act.js';
import { createRolloutActs, type RolloutActs } from '../../src/rollouts/rollout-acts.js';
import type { RolloutWish } from '../../src/rollouts/rollout-plan.js';
import { OPERATOR, startService, type TestService } from '../support/app.js';
import { NEXT } from '../support/next-build.js';

let service: TestService;
let registry: Kysely<Registry>;
let acts: RolloutActs;

beforeAll(async () => {
  service = await startService();
  ({ registry } = service.app.engine);
  acts = createRolloutActs({ registry, target: NEXT });
});
afterAll(() => service.close());
beforeEach(async () => {
  await sql`delete from rollouts`.execute(registry);
  await sql`delete from tenants`.execute(registry);
});

/** Rows of tenants on two servers; the first ones are behind. @returns the ids of those that are behind */
async function rows(behind: number, current = 0): Promise<string[]> {
  await sql`
    insert into tenants (id, name, slug, status, db_host, db_port, db_name, db_user, db_password, schema_version,
      deleted_at, status_before_deletion)
    select gen_random_uuid(), 'Tenant', 'tenant-' || n, case n % 3 when 0 then 'active' when 1 then 'suspended' else 'deleted' end,
      'db.example', 5432 + n % 2, 'db_' || n, 'db_' || n, 'sealed', case when n <= ${behind} then '0001' else ${NEXT} end,
      case n % 3 when 2 then now() end, case n % 3 when 2 then 'active' end
    from generate_series(1, ${behind + current}) n`.execute(registry);
  const found = await registry.selectFrom('tenants').select('id').where('schema_version', '=', '0001').execute();
  return found.map(({ id }) => id);
}

/** How many items each wave has. */
async function waves(wish: RolloutWish): Promise<Record<string, number>> {
  const { id } = await acts.start(wish, SERVICE);
  const found = await acts.find(id);
  return Object.fromEntries(found?.progress.waves.map(({ wave, total }) => [wave, total]) ?? []);
}

describe('a plan', () => {
  it('without a wish is one wave of all tenants that are behind, and those at the target get no item', async () => {
    await rows(20, 30);
    expect(await waves({})).toEqual({ 1: 20 });
    const [rollout] = await acts.list({ direction: 'asc', limit: 10 });
    expect(rollout).toMatchObject({
      target: NEXT,
      state: 'running',
      wave: 1,
      tenantsCurrent: 30,
      plan: { canary: null, waves: [100], budget: null, pace: 'gentle' },
    });
    const items = await acts.items({ rolloutId: rollout?.id ?? '', limit: 100 });
    expect(new Set(items.map(({ place }) => place))).toEqual(new Set(['db.example:5432', 'db.example:5433']));
  });

  it('has a canary by count, by percentage or by names, and waves by cumulative percentages of the rest', async () => {
    const ids = await rows(101);
    expect(await waves({ canary: { count: 1 }, waves: [10, 50, 100] })).toEqual({ 0: 1, 1: 10, 2: 40, 3: 50 });
    await sql`delete from rollouts`.execute(registry);
    expect(await waves({ canary: { percent: 2 }, waves: [50] })).toEqual({ 0: 3, 1: 49, 2: 49 });
    await sql`delete from rollouts`.execute(registry);
    const named = ids.slice(0, 2);
    const rollout = await acts.start({ canary: { tenants: named } }, SERVICE);
    const items = await acts.items({ rolloutId: rollout.id, limit: 2 });
    expect(items.map(({ tenantId, wave }) => [tenantId, wave])).toEqual(named.sort().map((id) => [id, 0]));
  });

  it('has another order in each rollout, so that the canary is not always the same', async () => {
    await rows(64);
    const first = new Set<string>();
    for (let attempt = 0; attempt < 8; attempt += 1) {
      const { id } = await acts.start({ canary: { count: 1 } }, SERVICE);
      first.add((await acts.items({ rolloutId: id, limit: 1 }))[0]?.tenantId ?? '');
      await acts.abort(id, SERVICE);
    }
    expect(first.size).toBeGreaterThan(1);
  });
});

describe('an act', () => {
  it('is refused if no tenant is behind, and leaves no rollout', async () => {
    await rows(0, 5);
    await expect(acts.start({}, SERVICE)).rejects.toMatchObject({ code: 'nothing-behind' });
    expect(await acts.list({ direction: 'asc', limit: 10 })).toEqual([]);
  });

  it('that starts a second rollout is refused until the first one has ended', async () => {
    await rows(3);
    const { id } = await acts.start({}, SERVICE);
    await acts.pause(id, SERVICE);
    await expect(acts.start({}, SERVICE)).rejects.toMatchObject({ code: 'rollout-under-way' });
    await acts.abort(id, SERVICE);
    const [, second] = [await acts.start({}, SERVICE), await acts.list({ direction: 'desc', limit: 1 })];
    expect(second[0]?.state).toBe('running');
  });

  it('of two at the same moment begins one rollout', async () => {
    await rows(3);
    const results = await Promise.allSettled([acts.start({}, SERVICE), acts.start({}, SERVICE)]);
    expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  });

  it('that the state does not allow is refused, and an unknown rollout is not found', async () => {
    await rows(3);
    const { id } = await acts.start({}, SERVICE);
    await expect(acts.resume(id, SERVICE)).rejects.toMatchObject({ code: 'rollout-state' });
    await expect(acts.retry(id, SERVICE)).rejects.toMatchObject({ code: 'rollout-state' });
    await acts.abort(id, SERVICE);
    for (const act of ['pause', 'resume', 'retry', 'abort'] as const)
      await expect(acts[act](id, SERVICE)).rejects.toMatchObject({ code: 'rollout-state' });
    const unknown = '00000000-0000-7000-8000-000000000000';
    await expect(acts.pause(unknown, SERVICE)).rejects.toMatchObject({ code: 'not-found' });
    expect(await acts.find(unknown)).toBeUndefined();
  });

  it('is audited with its operator, in its transaction', async () => {
    await rows(3, 1);
    const operator = await findOperatorByEmail(registry, OPERATOR.email);
    const session = await registry.selectFrom('sessions').select('id').executeTakeFirstOrThrow();
    const origin = { actor: { kind: 'operator', id: operator?.id ?? '', sessionId: session.id } } as const;
    const { id, requestedBy } = await acts.start({ canary: { count: 1 }, waves: [50], budget: 2 }, origin);
    expect(requestedBy).toBe(operator?.id);
    await acts.pause(id, origin);
    await acts.resume(id, origin, { budget: 7 });
    await acts.abort(id, origin);
    const audited = await registry
      .selectFrom('audit')
      .select(['action', 'actor_id as actor', 'target_kind as kind', 'details'])
      .where('target_id', '=', id)
      .orderBy('at')
      .orderBy('id')
      .execute();
    expect(audited.map(({ action, details }) => [action, details])).toEqual([
      ['rollout.started', { target: NEXT, behind: 3, waves: '50, 100', canary: '1', budget: 2 }],
      ['rollout.paused', { state: 'running' }],
      ['rollout.resumed', { state: 'paused', budget: 7 }],
      ['rollout.aborted', { state: 'running', skipped: 3 }],
    ]);
    expect(audited.every(({ actor, kind }) => actor === operator?.id && kind === 'rollout')).toBe(true);
    expect((await acts.find(id))?.plan.budget).toBe(7);
    await sql`update operators set active = false where id = ${operator?.id}`.execute(registry);
    await expect(acts.start({}, origin)).rejects.toMatchObject({ code: 'unauthenticated' });
    await sql`update operators set active = true where id = ${operator?.id}`.execute(registry);
    expect(await acts.list({ direction: 'asc', limit: 10, state: 'running' })).toEqual([]);
  });
});

describe('a list', () => {
  it('of items has pages by wave and tenant, of one state if that is asked for', async () => {
    await rows(7);
    const { id: rolloutId } = await acts.start({ canary: { count: 2 } }, SERVICE);
    const seen: string[] = [];
    let after: [string, string] | undefined;
    for (;;) {
      const page = await acts.items({ rolloutId, state: 'pending', after, limit: 3 });
      seen.push(...page.map(({ tenantId }) => tenantId));
      const last = page.at(-1);
      if (!last) break;
      after = [String(last.wave), last.tenantId];
    }
    const all = await acts.items({ rolloutId, limit: 100 });
    expect(seen).toEqual(all.map(({ tenantId }) => tenantId));
    expect(all.map(({ wave }) => wave)).toEqual([0, 0, 1, 1, 1, 1, 1]);
    expect(await acts.items({ rolloutId, state: 'failed', limit: 10 })).toEqual([]);
  });
});

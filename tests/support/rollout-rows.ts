// Tenants that a rollout cannot reach: their server does not answer, so that their items stay as they are while a test looks.
import { sql, type Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import { registerCluster } from '../../db/registry/cluster-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { newId } from '../../db/shared/ids.js';

/** A place at which nothing listens: port 1 is reserved. */
const NOWHERE = { host: '127.0.0.1', port: 1 };

/** The same as `host:port`. */
export const UNREACHED = `${NOWHERE.host}:${NOWHERE.port}`;

/** A schema version that is older than every other one. */
export const OLDER = '0000_older';

/** @returns the ids of the tenants */
export async function insertUnreached(db: Kysely<Registry>, count: number): Promise<string[]> {
  const known = await db.selectFrom('clusters').select('id').where('port', '=', NOWHERE.port).executeTakeFirst();
  const clusterId = known?.id ?? newId();
  if (!known)
    await registerCluster(db, clusterId, {
      ...NOWHERE,
      name: 'nowhere',
      region: null,
      provisionerUser: 'provisioner',
      provisionerPassword: 'not used',
      tls: 'off',
      tlsCa: null,
      connectionBudget: 10,
      connectionReserve: 2,
      weight: 1,
      accepting: false,
      standbyTarget: 0,
    });
  const ids = Array.from({ length: count }, () => randomUUID());
  await sql`
    insert into tenants (id, name, slug, status, cluster_id, db_host, db_port, db_name, db_user, db_password, schema_version, claim)
    select id, 'Unreached', 'unreached-' || id, 'active', ${clusterId}, ${NOWHERE.host}, ${NOWHERE.port},
      'tn_' || id, 'tn_' || id, 'not used', ${OLDER}, gen_random_uuid()
    from unnest(${ids}::uuid[]) as id`.execute(db);
  return ids;
}

/** Ends the rollout that is under way. */
export async function endRollout(db: Kysely<Registry>): Promise<void> {
  await sql`update rollouts set state = 'aborted', finished_at = now() where finished_at is null`.execute(db);
}

/**
 * Ends the rollout that is under way, and makes one that waits for an operator, with one item in each state. No worker takes it.
 *
 * @param target the schema version of no build
 * @returns its id
 */
export async function insertStoppedRollout(db: Kysely<Registry>, target: string): Promise<string> {
  await endRollout(db);
  const id = newId();
  const plan = { canary: null, waves: [100], budget: 0, pace: 'gentle' };
  await sql`
    insert into rollouts (id, target, state, plan, wave, reason)
    values (${id}, ${target}, 'stopped', ${JSON.stringify(plan)}, 1, 'as the test asks')`.execute(db);
  await sql`
    insert into rollout_items (rollout_id, tenant_id, wave, place, state, error, worker)
    select ${id}, gen_random_uuid(), 1, ${UNREACHED}, state, case when state = 'failed' then 'as the test asks' end,
      case when state = 'running' then 'made up' end
    from unnest(array['pending', 'running', 'done', 'failed', 'skipped']) as state`.execute(db);
  return id;
}

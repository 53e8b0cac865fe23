// The answer to a statement is lost while a tenant is suspended, resumed, deleted, restored or purged: the server ran the
// statement, and the connection broke before the answer came. The same request succeeds when it is sent again, and the database
// agrees with the row.
import { sql } from 'kysely';
import { expect, it } from 'vitest';
import { asSuperuser } from '../support/app.js';
import { acknowledged, signIn, type Acknowledged } from '../support/evidence.js';
import {
  act,
  describeLoss,
  isSampled,
  loseOneByOne,
  patiently,
  startReplicas,
  statusOf,
  targets,
  type Loss,
  type Target,
} from '../support/lost-answers.js';
import { finishOperations } from '../support/operations.js';
import { eventually } from '../support/service-process.js';

const acts = {
  suspend: { status: 'suspended', open: false },
  resume: { status: 'active', open: true },
  delete: { status: 'deleted', open: false },
  restore: { status: 'active', open: true },
} as const;

it('suspend, resume, delete and restore succeed when they are repeated, and the database agrees with the row', async () => {
  const replicas = await startReplicas();
  const { here, there, registry } = replicas;
  const { id, slug } = await there.createTenant();
  const tenant = await acknowledged(there, slug);
  const harm: string[] = [];

  const actWithLoss = async (name: keyof typeof acts, target: Target, nth: number): Promise<Loss> => {
    const loss = replicas.loseAnswer(target, nth);
    const first = await act(here, name, id);
    replicas.loseAnswer(target, 0);
    const again = await patiently(() => act(there, name, id), [503]);
    const what = `${name}, ${describeLoss(`${target} ${nth}`, loss.happened ? await loss.statement : 'none')}`;
    const { status, open } = acts[name];
    // A restoration that took effect cannot be repeated.
    const isDone = again.status < 300 || (await statusOf(registry, slug)) === status;
    if (!isDone) harm.push(`${what}: answered with ${first.status}, and then ${again.status}: ${again.text}`);
    await eventually(
      what,
      async () => {
        const now = await statusOf(registry, slug);
        const door = await doorOf(tenant);
        if (now === status && door.open === open && door.mayConnect === open) return true;
        await finishOperations(there.app.engine);
        await there.app.engine.housekeeping.runNow('lifecycle settle');
        return false;
      },
      15_000,
    ).catch((error: unknown) => harm.push(String(error)));
    return loss;
  };
  // Each act ends in the status in which the next begins, also if it loses no answer.
  const losses = await loseOneByOne(['suspend', 'resume', 'delete', 'restore'], actWithLoss);
  // Otherwise nothing was tested.
  expect(losses).toBeGreaterThan(16);
  expect(await signIn(there, slug)).toBe(200);
  expect(harm).toEqual([]);
}, 120_000);

it('a purge succeeds when it is repeated, and leaves nothing', async () => {
  const replicas = await startReplicas(1);
  const { here, there, registry } = replicas;
  const harm: string[] = [];
  let losses = 0;
  for (const target of targets) {
    for (let nth = 1, happened = true; happened; nth += 1) {
      expect(nth).toBeLessThan(50);
      if (!isSampled(nth)) continue;
      replicas.loseAnswer(target, 0);
      await there.app.engine.housekeeping.runNow('standby databases');
      const { id, slug } = await there.createTenant();
      const tenant = await acknowledged(there, slug);
      expect((await act(there, 'delete', id)).status).toBe(204);
      const loss = replicas.loseAnswer(target, nth);
      const first = await act(here, 'purge', id);
      ({ happened } = loss);
      if (happened) losses += 1;
      const again = await patiently(() => act(there, 'purge', id), [503]);
      const what = `purge, ${describeLoss(`${target} ${nth}`, happened ? await loss.statement : 'none')}`;
      if (![204, 404].includes(again.status))
        harm.push(`${what}: answered with ${first.status}, and then ${again.status}: ${again.text}`);
      if ((await statusOf(registry, slug)) !== undefined) harm.push(`${what}: the row is left`);
      const { exists, role } = await doorOf(tenant);
      if (exists || role) harm.push(`${what}: the ${exists ? 'database' : 'role'} is left`);
    }
  }
  expect(losses).toBeGreaterThan(2);
  expect(harm).toEqual([]);
}, 120_000);

/** Whether a tenant's database takes connections, and its role may connect to it. The role has the database's name. */
async function doorOf({
  dbName,
}: Acknowledged): Promise<{ exists: boolean; role: boolean; open: boolean; mayConnect: boolean }> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ exists: boolean; role: boolean; open: boolean; mayConnect: boolean }>`
      select datname is not null as exists, rolname is not null as role, coalesce(datallowconn, false) as open,
        coalesce(has_database_privilege(rolname, datname, 'connect'), false) as "mayConnect"
      from (select ${dbName}::text as name) as wanted
        left join pg_database on datname = name left join pg_roles on rolname = name`.execute(db),
  );
  return rows[0] ?? { exists: false, role: false, open: false, mayConnect: false };
}

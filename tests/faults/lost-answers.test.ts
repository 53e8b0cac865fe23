// The answer to a statement is lost while a tenant is made: the server ran the statement, and the connection broke before the
// answer came. Whether it took effect is then unknown. Each statement loses its answer once, and another replica gets the same
// request at that moment. An acknowledged tenant stays.
import { sql } from 'kysely';
import { isDeepStrictEqual } from 'node:util';
import { expect, it } from 'vitest';
import { ADMIN, asSuperuser, type Answer } from '../support/app.js';
import { contentOf, PRODUCT, signIn, writeProduct } from '../support/evidence.js';
import {
  describeLoss,
  isSampled,
  make,
  patiently,
  runJobs,
  startReplicas,
  targets,
  type Loss,
  type Target,
} from '../support/lost-answers.js';

it.each([
  ['a tenant that is made from the template', 0],
  ['a tenant that claims a standby database', 1],
])(
  '%s is acknowledged once and stays, whichever answer is lost during its creation',
  async (_what, standby) => {
    const replicas = await startReplicas(standby);
    const { here, there } = replicas;
    const token = there.operatorToken;
    const made: { slug: string; lost: string; id: string }[] = [];
    const harm: string[] = [];

    const makeWithLoss = async (target: Target, nth: number): Promise<Loss> => {
      if (standby > 0) await there.app.engine.housekeeping.runNow('standby databases');
      const slug = `${target}-${nth}`;
      const key = `key-of-${slug}`;
      const loss = replicas.loseAnswer(target, nth);
      const first = make(here, token, slug, { key });
      const statement = await Promise.race([loss.statement, first.then(() => 'none')]);
      const lost = describeLoss(slug, statement);
      const second = patiently(() => make(there, token, slug, { key }));
      const isMade = (sent: Promise<Answer<{ id: string }>>): Promise<string> =>
        sent.then(({ status, body, text }) => (status === 201 ? body.id : Promise.reject(new Error(text))));
      try {
        const id = await Promise.any([isMade(first), isMade(second)]);
        made.push({ slug, lost, id });
        await writeProduct(there, slug);
      } catch (error) {
        const reasons = error instanceof AggregateError ? error.errors.map(String).join(', ') : String(error);
        harm.push(`${lost}: ${reasons}`);
      }
      const ids = (await Promise.all([first, second])).flatMap(({ status, body }) => (status === 201 ? [body.id] : []));
      if (new Set(ids).size > 1) harm.push(`${lost}: acknowledged as two tenants`);
      return loss;
    };

    for (const target of targets) {
      const { seen } = await makeWithLoss(target, 0);
      expect(seen[target].length).toBeGreaterThan(2);
      for (const [index, statement] of seen[target].entries())
        if (isSampled(index + 1, statement)) await makeWithLoss(target, index + 1);
    }
    await runJobs(replicas);

    for (const { slug, lost, id } of made) {
      const { rows } = await asSuperuser(replicas.registry, (db) =>
        sql<{ id: string; status: string; dbName: string }>`
          select id, status, db_name as "dbName" from tenants where slug = ${slug}`.execute(db),
      );
      const [row] = rows;
      if (row?.id !== id || row.status !== 'active') {
        harm.push(`${lost}: its row is ${row ? `${row.status}, ${row.id === id ? 'its own' : 'another'}` : 'gone'}`);
        continue;
      }
      const content = await contentOf(row.dbName);
      const expected = { markers: [id], users: [ADMIN.email], products: [PRODUCT] };
      if (!isDeepStrictEqual(content, expected)) harm.push(`${lost}: its database has ${JSON.stringify(content)}`);
      const status = await signIn(here, slug);
      if (status !== 200) harm.push(`${lost}: its admin's sign-in is answered with ${status}`);
    }
    expect(harm).toEqual([]);
  },
  120_000,
);

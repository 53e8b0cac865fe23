// The answer to a statement is lost while a database is adopted: the server ran the statement, and the connection broke before the
// answer came. The adopted database is never lost by that, also not if the client follows the advice in the answer.
import { randomBytes } from 'node:crypto';
import { expect, it } from 'vitest';
import { acknowledged, createLegacyDatabase, invoicesIn, signIn } from '../support/evidence.js';
import {
  act,
  describeLoss,
  isSampled,
  make,
  runJobs,
  startReplicas,
  statusOf,
  targets,
  type Loss,
  type Replicas,
} from '../support/lost-answers.js';

it('an adopted database keeps its own rows, whichever answer is lost and whichever advice the client follows', async () => {
  const replicas = await startReplicas();
  const { adopted, adoptWithLoss } = await startAdopting(replicas);
  for (const target of targets) {
    const { seen } = await adoptWithLoss(`${target}-0`, replicas.loseAnswer(target, 0));
    expect(seen[target].length).toBeGreaterThan(2);
    for (const nth of worthLosing(seen[target]).filter((nth) => isSampled(nth, seen[target][nth - 1])))
      await adoptWithLoss(`${target}-${nth}`, replicas.loseAnswer(target, nth));
  }
  expect(await harmAfterAdvice(replicas, adopted)).toEqual([]);
}, 240_000);

it('an adoption whose last COMMIT lost its answer is complete or undone, even if the server is away from then on', async () => {
  const replicas = await startReplicas();
  const { adopted, adoptWithLoss } = await startAdopting(replicas);
  for (let awayFrom = 1; awayFrom <= 8; awayFrom += 1) {
    let isAudited = false;
    let isCommitted = false;
    let since = 0;
    const loss = replicas.loseAnswers((statement, target) => {
      if (target === 'server') return isCommitted && (since += 1) >= awayFrom;
      isAudited ||= /insert into "?audit/i.test(statement);
      const isLast = isAudited && !isCommitted && /^commit\b/i.test(statement);
      isCommitted ||= isLast;
      return isLast;
    });
    await adoptWithLoss(`away-from-${awayFrom}`, loss);
    expect(isCommitted).toBe(true);
  }
  expect(await harmAfterAdvice(replicas, adopted)).toEqual([]);
}, 240_000);

interface Adopted {
  readonly slug: string;
  readonly database: string;
  /** For the message of a failure. */
  readonly lost: string;
  readonly status: number;
  readonly detail: string | undefined;
}

async function startAdopting({ here, there }: Replicas): Promise<{
  readonly adopted: readonly Adopted[];
  readonly adoptWithLoss: (slug: string, loss: Loss) => Promise<Loss>;
}> {
  const { operatorToken: token } = there;
  const clusters = await there.send<{ data: { id: string }[] }>('GET', '/clusters', { token });
  const clusterId = clusters.body.data[0]?.id ?? '';
  const adopted: Adopted[] = [];
  return {
    adopted,
    async adoptWithLoss(slug, loss) {
      const database = `legacy_${randomBytes(6).toString('hex')}`;
      await createLegacyDatabase(database, there.config.tenants.provisioner.user);
      const { status, body } = await make(here, token, slug, { adopt: { clusterId, database } });
      const lost = describeLoss(slug, loss.happened ? await loss.statement : 'none');
      adopted.push({ slug, database, lost, status, detail: body.detail });
      return loss;
    },
  };
}

/** A migration is one step with many statements: every eighth of them is enough. */
function worthLosing(statements: readonly string[]): number[] {
  const isMigrating =
    /^\s*(create (table|index|schema)|alter table|insert into (roles|role_permissions|user_roles) |update roles)|"migration"|pg_catalog/;
  let migrating = 0;
  return statements.flatMap((statement, index) =>
    isMigrating.test(statement) && (migrating += 1) % 8 !== 0 ? [] : [index + 1],
  );
}

/** Lets the service finish, checks the result, removes the tenants as the answers advise, and checks again. */
async function harmAfterAdvice(replicas: Replicas, adopted: readonly Adopted[]): Promise<readonly string[]> {
  const { there, registry } = replicas;
  const harm: string[] = [];
  const look = async (when: string): Promise<void> => {
    for (const { database, lost, status } of adopted) {
      const invoices = await invoicesIn(database);
      if (invoices?.join() !== '1,2')
        harm.push(`${lost}, answered with ${status}: ${when}, its rows are ${invoices?.join() ?? 'gone with it'}`);
    }
  };
  replicas.loseAnswer('server', 0);
  await runJobs(replicas);
  await look('after the adoption');
  for (const { slug, lost, status } of adopted) {
    const now = await statusOf(registry, slug);
    const answer = now === 'active' ? await signIn(there, slug) : 401;
    // An active tenant works, and an acknowledged tenant is active.
    if (answer !== 200 && (status === 201 || now === 'active'))
      harm.push(`${lost}, answered with ${status}: ${now ?? 'no row'}, and a sign-in gets ${answer}`);
  }
  for (const { slug, detail } of adopted) {
    const now = await statusOf(registry, slug);
    const id = now === undefined ? undefined : (await acknowledged(there, slug)).id;
    if (id !== undefined && now === 'active') await act(there, 'delete', id);
    const advised = id ?? /\/tenants\/([0-9a-f-]{36})/.exec(detail ?? '')?.[1];
    if (advised !== undefined) await act(there, 'purge', advised);
  }
  await runJobs(replicas);
  await look('after DELETE and purge');
  for (const { slug, lost, status } of adopted) {
    const now = await statusOf(registry, slug);
    if (now !== undefined) harm.push(`${lost}, answered with ${status}: after DELETE and purge, its row is ${now}`);
  }
  return harm;
}

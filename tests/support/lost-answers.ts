// Two replicas of the service on one registry. One of them loses the answer to a statement of the test's choice: the server runs
// the statement, and the connection breaks before the answer comes.
import { sql } from 'kysely';
import { inject, onTestFinished } from 'vitest';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ADMIN,
  asSuperuser,
  createRegistry,
  startServiceIn,
  type Answer,
  type Problem,
  type TestService,
} from './app.js';
import { finishOperations } from './operations.js';
import { startStatementProxy, type Statement, type StatementProxy, type Verdict } from './statement-proxy.js';

/** Which answers are lost: the registry's, or those of the server to the provisioner. */
export type Target = 'registry' | 'server';
export const targets: readonly Target[] = ['registry', 'server'];

/** The answer to every EVERYth statement is lost. LOST_EVERY=1 loses the answer to each; the suite uses a sample. */
const EVERY = Number(process.env['LOST_EVERY'] ?? 8);

/** Whether the answer to an act's nth statement is lost. Answers to statements that commit or mark are always lost. */
export function isSampled(nth: number, statement = '', every = EVERY): boolean {
  return nth % Math.min(every, EVERY) === 0 || /^\s*commit|tenantry mark/i.test(statement);
}

/**
 * The numbers of the statements whose answers are lost one after the other.
 *
 * @param seen the act's statements, without a loss
 * @param every a denser sample, for an act of few statements
 */
export function sampleOf(seen: readonly string[], every = EVERY): number[] {
  return seen.flatMap((statement, index) => (isSampled(index + 1, statement, every) ? [index + 1] : []));
}

export interface Replicas {
  readonly registry: string;
  /** Loses answers. */
  readonly here: TestService;
  /** Another replica, whose connections to the registry lose nothing. */
  readonly there: TestService;
  /** From now on, `here` loses the answer to its nth statement; 0 for none. Replaces the previous call. */
  loseAnswer(target: Target, nth: number): Loss;
  /** The same for each statement that `isLost` picks. `nth` counts by target, from 1. */
  loseAnswers(isLost: (statement: string, target: Target, nth: number) => boolean): Loss;
}

export interface Loss {
  /** Resolves with the first statement whose answer is lost, at that moment. */
  readonly statement: Promise<string>;
  readonly happened: boolean;
  /** The statements so far, in order. */
  readonly seen: Readonly<Record<Target, readonly string[]>>;
}

/** Connections for requests on tenants. Those of events, leases and jobs work independently of requests. */
const AT_WORK = /^tenantry (registry|locks)$/;

/** How a job takes and releases its lock, on the connections of the pool for locks (db/registry/job-locks.ts). */
const JOB_LOCK = /advisory_(un)?lock\(hashtextextended\(\$1, 0\)\)/;

/** How every replica looks for operations that are due. */
const LOOK = 'partition by cluster_id';

/** Whether a request or an operation sent this statement to the registry, and not a job. */
export function isOfWork({ sql, application }: Statement): boolean {
  return AT_WORK.test(application) && !JOB_LOCK.test(sql) && !sql.includes(LOOK);
}

/** Both close at the end of the test. @param standby databases to keep ready */
export async function startReplicas(standby = 0): Promise<Replicas> {
  const cluster = inject('cluster');
  const registry = await createRegistry();
  const proxies = {
    registry: await startStatementProxy(cluster.superuser),
    server: await startStatementProxy(cluster.provisioner),
  };
  onTestFinished(async () => {
    await Promise.all(Object.values(proxies).map((proxy) => proxy.close()));
  });
  const env = { RECONCILE_EVERY_MS: '3600000', STANDBY_DATABASES: String(standby) };
  const behind = <At>(at: At, { host, port }: StatementProxy): At => ({ ...at, host, port });
  // The same place for both replicas, or they would be two clusters.
  const place = { provisioner: behind(cluster.provisioner, proxies.server) };
  const sound = { ...cluster, ...place };
  const there = await startServiceIn(sound, { registry, env });
  onTestFinished(() => there.close());
  const here = await startServiceIn(
    { ...sound, superuser: behind(cluster.superuser, proxies.registry) },
    { registry, env, operator: false },
  );
  onTestFinished(() => here.close());
  // Wait for the jobs that run at the start. All later statements are then those of requests.
  for (const job of ['reconciler', 'standby databases', 'lifecycle settle', 'lifecycle purge'])
    await here.app.engine.housekeeping.runNow(job);
  const provisioner = `tenantry provisioner ${here.app.engine.replicaId}`;

  function loseAnswers(isLost: (statement: string, target: Target, nth: number) => boolean): Loss {
    const seen: Record<Target, string[]> = { registry: [], server: [] };
    let happened = false;
    let lose: (statement: string) => void = () => undefined;
    const statement = new Promise<string>((resolve) => (lose = resolve));
    for (const target of targets) {
      proxies[target].onStatement = ({ sql, application }): Verdict => {
        const isAtWork = target === 'registry' ? isOfWork({ sql, application }) : application === provisioner;
        if (!isAtWork || !isLost(sql, target, seen[target].push(sql))) return 'pass';
        happened = true;
        lose(sql);
        return 'lose';
      };
    }
    return {
      statement,
      get happened() {
        return happened;
      },
      seen,
    };
  }

  return {
    registry,
    here,
    there,
    loseAnswer: (target, nth) => loseAnswers((_statement, of, count) => of === target && count === nth),
    loseAnswers,
  };
}

/** Finishes every operation and runs every job, on both replicas. */
export async function runJobs({ here, there }: Replicas): Promise<void> {
  for (const job of ['reconciler', 'lifecycle settle', 'reconciler'])
    for (const { app } of [here, there]) {
      await app.engine.housekeeping.runNow(job);
      await finishOperations(app.engine);
    }
}

/** Makes or adopts a tenant; its name is its slug. */
export function make(
  { send }: TestService,
  token: string,
  slug: string,
  { key, ...more }: { key?: string; adopt?: object } = {},
): Promise<Answer<Problem & { id: string; detail: string }>> {
  return send('POST', '/tenants', {
    token,
    body: { name: slug, slug, admin: ADMIN, ...more },
    ...(key !== undefined && { headers: { 'idempotency-key': key } }),
  });
}

export type Act = 'suspend' | 'resume' | 'delete' | 'restore' | 'purge';

export function act({ send, operatorToken: token }: TestService, name: Act, id: string): Promise<Answer<Problem>> {
  return name === 'delete'
    ? send<Problem>('DELETE', `/tenants/${id}`, { token })
    : send<Problem>('POST', `/tenants/${id}/${name}`, { token });
}

/** The status of the tenant of this slug; undefined if there is none. */
export async function statusOf(registry: string, slug: string): Promise<string | undefined> {
  const { rows } = await asSuperuser(registry, (db) =>
    sql<{ status: string }>`select status from tenants where slug = ${slug}`.execute(db),
  );
  return rows[0]?.status;
}

/** Sends the request again while its status is one of `again`, with longer and longer pauses. */
export async function patiently<T>(send: () => Promise<Answer<T>>, again = [409, 503]): Promise<Answer<T>> {
  const until = performance.now() + 60_000;
  for (let pause = 100; ; pause = Math.min(2 * pause, 1_600)) {
    const answer = await send();
    if (!again.includes(answer.status) || performance.now() > until) return answer;
    await sleep(pause);
  }
}

/**
 * Runs the acts in turn, again and again, until the answer to each statement of a sample was lost once.
 *
 * @param run runs an act, which loses the answer to its nth statement; 0 loses none
 * @param options.independent whether each act works without the others before it: then it runs no more often than its sample needs
 * @returns how many answers were lost
 */
export async function loseOneByOne<T>(
  acts: readonly T[],
  run: (act: T, target: Target, nth: number) => Promise<Loss>,
  { independent = false }: { readonly independent?: boolean } = {},
): Promise<number> {
  let losses = 0;
  const counted: typeof run = async (act, target, nth) => {
    const loss = await run(act, target, nth);
    if (loss.happened) losses += 1;
    return loss;
  };
  for (const target of targets) {
    const samples: number[][] = [];
    for (const act of acts) samples.push(sampleOf((await counted(act, target, 0)).seen[target], 5));
    for (let turn = 0; samples.some((sample) => turn < sample.length); turn += 1)
      for (const [index, act] of acts.entries()) {
        const nth = samples[index]?.[turn] ?? 0;
        if (nth > 0 || !independent) await counted(act, target, nth);
      }
  }
  return losses;
}

/** For the message of a failure: the act, and the statement that lost its answer. */
export function describeLoss(what: string, statement: string): string {
  return `${what} (${statement.replace(/\s+/g, ' ').trim().slice(0, 60)})`;
}

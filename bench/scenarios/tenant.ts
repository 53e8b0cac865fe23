// Making a tenant: from the template, with role, database and first admin; or from a standby database, with its first admin only.
import { setTimeout as sleep } from 'node:timers/promises';
import { median, medians, percentile } from '../figures/statistics.js';
import type { Pair } from '../stage/pair.js';
import { ask, createTenant, removeTenant } from '../stage/seed.js';
import { eachRound, mediansOf, type Scenario } from './scenario.js';

interface Figures {
  /** One tenant after the other, in ms. */
  readonly median: number;
  readonly p95: number;
  /** Tenants a second, several at once. */
  readonly perSecondAtOnce: number;
}

interface TenantRound {
  readonly template: Figures;
  readonly standby: Figures;
  /**
   * Standby databases made a second, one after the other, while no tenant is made. A stream of tenants that is faster runs out of
   * them.
   */
  readonly refilledPerSecond: number;
}

const TENANTS_IN_A_ROUND = 20;
const TENANTS_AT_ONCE = 4;

/** Enough for every tenant of a round. */
const STANDBY_DATABASES = 2 * TENANTS_IN_A_ROUND;

/** Operations in one page: more than standby databases. */
const LISTED = 100;

/** Maximum wait (ms) for the standby databases. */
const READY_WITHIN = 120_000;

export const tenant: Scenario<'tenant'> = {
  name: 'tenant',
  what: `POST /tenants, ${TENANTS_IN_A_ROUND} one by one, then ${TENANTS_AT_ONCE} at once, from the template and from standby databases; no floor`,
  rounds: 3,

  async run(bench) {
    const pair = await bench.stages.pair();
    const rounds = await eachRound(bench, this.name, (_round, tell) => measure(pair, tell));
    const template = medians(rounds.map((round) => round.template));
    const standby = medians(rounds.map((round) => round.standby));
    const { refilled } = medians(rounds.map(({ refilledPerSecond }) => ({ refilled: refilledPerSecond })));
    const row = (from: string, { median, p95, perSecondAtOnce }: Figures, refill: string): string[] => [
      'tenant',
      from,
      median.toFixed(1),
      p95.toFixed(1),
      perSecondAtOnce.toFixed(1),
      refill,
    ];
    return {
      name: this.name,
      what: this.what,
      rounds,
      median: { template, standby, refilledPerSecond: refilled },
      table: {
        caption: `${mediansOf(bench)} of ${TENANTS_IN_A_ROUND} one by one and ${TENANTS_IN_A_ROUND} at once`,
        headings: [
          'scenario',
          'from',
          'one by one: median ms',
          'p95 ms',
          `${TENANTS_AT_ONCE} at once: tenants/s`,
          'refilled/s',
        ],
        rows: [row('template', template, ''), row('standby', standby, refilled.toFixed(1))],
      },
      warnings: [],
      failures: [],
    };
  },
};

async function measure(pair: Pair, tell: (step: string) => void): Promise<TenantRound> {
  tell('from the template');
  await keepStandby(pair, 0);
  const template = await make(pair);
  tell('from standby databases');
  const refilledPerSecond = await keepStandby(pair, STANDBY_DATABASES);
  const standby = await make(pair);
  return { template, standby, refilledPerSecond };
}

/** Waits until the only cluster has `target` standby databases. Returns how many a second were made. @throws Error on a timeout */
async function keepStandby({ service, operatorToken: token }: Pair, target: number): Promise<number> {
  const { url } = service;
  const look = async (): Promise<{ id: string; standbyDatabases: number }> => {
    const list = await ask(url, ['GET', '/clusters'], 200, { token });
    return (list as { data: [{ id: string; standbyDatabases: number }] }).data[0];
  };

  /** A standby database is counted as soon as it is planned: it is ready when its operation is done. */
  const areReady = async (): Promise<boolean> => {
    if ((await look()).standbyDatabases !== target) return false;
    const list = await ask(url, ['GET', `/operations?kind=standby&limit=${LISTED}`], 200, { token });
    return (list as { data: { state: string }[] }).data.every(({ state }) => state === 'done');
  };

  const { id, standbyDatabases: from } = await look();
  const begunAt = performance.now();
  await ask(url, ['PATCH', `/clusters/${id}`], 200, { token, body: { standbyTarget: target } });
  while (!(await areReady())) {
    if (performance.now() - begunAt > READY_WITHIN)
      throw new Error(`there are not ${target} standby databases after ${READY_WITHIN} ms`);
    await sleep(20);
  }
  return (1_000 * (target - from)) / (performance.now() - begunAt);
}

async function make({ service, operatorToken, signInOperator }: Pair): Promise<Figures> {
  const made: string[] = [];
  const makeOne = async (): Promise<void> => {
    made.push((await createTenant(service.url, operatorToken)).id);
  };

  const times: number[] = [];
  for (let count = 0; count < TENANTS_IN_A_ROUND; count += 1) {
    const begunAt = performance.now();
    await makeOne();
    times.push(performance.now() - begunAt);
  }

  let left = TENANTS_IN_A_ROUND;
  const makeOnAndOn = async (): Promise<void> => {
    while (left-- > 0) await makeOne();
  };
  const begunAt = performance.now();
  await Promise.all(Array.from({ length: TENANTS_AT_ONCE }, makeOnAndOn));
  const seconds = (performance.now() - begunAt) / 1_000;

  // Each is a database of some 8 MB.
  const token = await signInOperator();
  for (const id of made) await removeTenant(service.url, token, id);
  return {
    median: median(times),
    p95: percentile(times, 0.95),
    perSecondAtOnce: TENANTS_IN_A_ROUND / seconds,
  };
}

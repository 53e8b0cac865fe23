// A new tenant: its role, its database and its first admin, until it is answered.
import { median, medians, percentile } from '../figures/statistics.js';
import type { Pair } from '../stage/pair.js';
import { createTenant, removeTenant } from '../stage/seed.js';
import { eachRound, mediansOf, type Scenario } from './scenario.js';

interface TenantRound {
  /** One after the other, in ms. */
  readonly median: number;
  readonly p95: number;
  /** Tenants a second, several at once. */
  readonly perSecondAtOnce: number;
}

const TENANTS_IN_A_ROUND = 20;
const TENANTS_AT_ONCE = 4;

export const tenant: Scenario<'tenant'> = {
  name: 'tenant',
  what: `POST /tenants, ${TENANTS_IN_A_ROUND} one by one, then ${TENANTS_AT_ONCE} at once; no floor`,
  rounds: 3,

  async run(bench) {
    const pair = await bench.stages.pair();
    const rounds = await eachRound(bench, this.name, (_round, tell) => {
      tell('');
      return measure(pair);
    });
    const middle = medians(rounds);
    return {
      name: this.name,
      what: this.what,
      rounds,
      median: middle,
      table: {
        caption: `${mediansOf(bench)} of ${TENANTS_IN_A_ROUND} one by one and ${TENANTS_IN_A_ROUND} at once`,
        headings: ['scenario', '', 'one by one: median ms', 'p95 ms', `${TENANTS_AT_ONCE} at once: tenants/s`],
        rows: [['tenant', '', middle.median.toFixed(1), middle.p95.toFixed(1), middle.perSecondAtOnce.toFixed(1)]],
      },
      warnings: [],
      failures: [],
    };
  },
};

async function measure({ service, operatorToken }: Pair): Promise<TenantRound> {
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
  for (const id of made) await removeTenant(service.url, operatorToken, id);
  return {
    median: median(times),
    p95: percentile(times, 0.95),
    perSecondAtOnce: TENANTS_IN_A_ROUND / seconds,
  };
}

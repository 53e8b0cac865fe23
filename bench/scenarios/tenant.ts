// A new tenant: its role, its database and its first admin, until it is answered.
import { createTenant, removeTenant } from '../seed.js';
import type { Stage } from '../stage.js';
import { median, percentile } from '../statistics.js';
import type { TenantScenario } from './scenario.js';

export interface TenantRound {
  /** One after the other, in ms. */
  readonly median: number;
  readonly p95: number;
  /** Tenants a second, several at once. */
  readonly perSecondAtOnce: number;
}

export const TENANTS_IN_A_ROUND = 20;
export const TENANTS_AT_ONCE = 4;

export const tenant: TenantScenario<'tenant'> = {
  kind: 'tenant',
  name: 'tenant',
  what: `POST /tenants, ${TENANTS_IN_A_ROUND} one by one, then ${TENANTS_AT_ONCE} at once; no floor`,

  async run({ service, operatorToken }: Stage) {
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
  },
};

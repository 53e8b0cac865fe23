// Which tenants have series of their own: the busiest ones, so that the number of series does not grow with the number of tenants.
//
// Once a minute the tenants are ranked by a count of their requests that halves each minute. A tenant with a series keeps it until
// a tenant without one is HYSTERESIS times as busy. A series starts at 0 when it begins. What its tenant did before that, and
// does afterwards, is counted in `other`. So every series only grows, and so does `other`.

/** What a tenant did since its series began, or what all tenants without a series did. */
export interface TenantTally {
  readonly requests: number;
  /** Answers with a status of 500 or more. */
  readonly errors: number;
  /** Seconds that the requests took together. */
  readonly seconds: number;
}

export interface BusyTenants {
  /**
   * Counts one answered request.
   *
   * @param seconds its duration
   */
  count(tenantId: string, seconds: number, failed: boolean): void;
  /** The tenants that have a series, with their series. */
  series(): ReadonlyMap<string, TenantTally>;
  /** All other tenants together. */
  readonly other: TenantTally;
  /** Ranks the tenants. A timer calls this once a minute. */
  rank(): void;
  /** The number of tenants that are remembered. */
  readonly remembered: number;
  /** Ends the timer. */
  close(): void;
}

/** Time (ms) between two rankings. */
const RANK_EVERY = 60_000;

/** How many times as busy as the tenant with a series the tenant without one must be. */
const HYSTERESIS = 1.5;

/**
 * The most tenants that are remembered, about 120 bytes each with the id. While there are as many, new tenants are counted in `other` and not
 * ranked, until the next ranking forgets the less busy half.
 */
export const MAX_REMEMBERED = 10_000;

interface Tally {
  requests: number;
  errors: number;
  seconds: number;
}

interface Remembered {
  readonly id: string;
  /** Requests, of which half are forgotten at each ranking. */
  score: number;
  series: Tally | undefined;
}

/** @param size the number of tenants that have a series; 0 for none */
export function createBusyTenants(size: number): BusyTenants {
  const known = new Map<string, Remembered>();
  const series = new Map<string, Tally>();
  const other = newTally();
  const timer = size === 0 ? undefined : setInterval(rank, RANK_EVERY).unref();

  function rank(): void {
    const all = [...known.values()].sort((one, next) => next.score - one.score);
    const inside = all.filter((tenant) => tenant.series !== undefined);
    for (const tenant of all) {
      if (tenant.series) continue;
      const weakest = inside.at(-1);
      if (inside.length >= size) {
        if (!weakest || tenant.score < weakest.score * HYSTERESIS || tenant.score <= weakest.score) break;
        end(weakest);
        inside.pop();
      }
      begin(tenant);
      // It goes to the front, because it is at least as busy as every tenant without a series that follows.
      inside.unshift(tenant);
    }
    forget(all);
  }

  function begin(tenant: Remembered): void {
    tenant.series = newTally();
    series.set(tenant.id, tenant.series);
  }

  function end(tenant: Remembered): void {
    tenant.series = undefined;
    series.delete(tenant.id);
  }

  /** @param all the busiest first */
  function forget(all: readonly Remembered[]): void {
    for (const [index, tenant] of all.entries()) {
      tenant.score /= 2;
      if (!tenant.series && (tenant.score < 1 || index >= MAX_REMEMBERED / 2)) known.delete(tenant.id);
    }
  }

  function remember(id: string): Remembered | undefined {
    if (size === 0 || known.size >= MAX_REMEMBERED) return undefined;
    const tenant = { id, score: 0, series: undefined };
    known.set(id, tenant);
    return tenant;
  }

  return {
    count(tenantId, seconds, failed) {
      const tenant = known.get(tenantId) ?? remember(tenantId);
      if (tenant) tenant.score += 1;
      const tally = tenant?.series ?? other;
      tally.requests += 1;
      tally.seconds += seconds;
      if (failed) tally.errors += 1;
    },
    series: () => series,
    other,
    rank,
    get remembered() {
      return known.size;
    },
    close() {
      clearInterval(timer);
    },
  };
}

function newTally(): Tally {
  return { requests: 0, errors: 0, seconds: 0 };
}

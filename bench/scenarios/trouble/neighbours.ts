// The common part of noisy and hung: healthy tenants, read at half of the service's capacity, and how much the tenant in trouble
// slows their slowest answers.
import { pick, seededRandom, type Random } from '../../figures/random.js';
import { drive, startDrive, type Drive, type Result } from '../../measuring/drive.js';
import { measure } from '../../measuring/measure.js';
import type { LoadRequest, OpenLoadJob } from '../../programs/messages.js';
import type { Fleet } from '../../stage/fleet.js';
import type { Service } from '../../stage/installation.js';
import type { SeededTenant } from '../../stage/seed.js';

/** Healthy tenants. */
export const NEIGHBOURS = 49;

/** The share of the capacity that they use: enough to feel a neighbour, too little to queue by themselves. */
const SHARE = 0.5;

/** Different requests of an open load, sent repeatedly. */
const REQUESTS = 10_000;

/** Above this share of p99, the generator's own lateness distorts the figure. */
const LATE = 0.5;

/** Reads of one product, for tenants that `choose` draws. The service knows the tenant from the token, the floor from a header. */
export function reads(count: number, seed: number, choose: (random: Random) => SeededTenant): LoadRequest[] {
  const random = seededRandom(seed);
  return Array.from({ length: count }, () => readOf(choose(random), random));
}

export function readOf(tenant: SeededTenant, random: Random): LoadRequest {
  return { method: 'GET', path: `/products/${pick(tenant.productIds, random)}`, headers: headersOf(tenant, random) };
}

/** The headers of any user of a tenant, for the service and for the floor. */
export function headersOf(tenant: SeededTenant, random: Random): Readonly<Record<string, string>> {
  return { authorization: `Bearer ${pick(tenant.users, random).token}`, 'x-tenant': tenant.id };
}

/** Half of the service's maximum requests a second. */
export async function halfOfCapacity(
  { flags, cluster, cleanup }: Fleet,
  { url, pid }: Service,
  tenants: readonly SeededTenant[],
): Promise<number> {
  const { connections, warmup, seconds } = flags;
  const requests = reads(REQUESTS, 0, (random) => pick(tenants, random));
  const job = { url, connections, warmup, seconds, requests };
  const { requestsPerSecond } = await measure({ name: 'load', job, server: pid }, cluster.postmaster, cleanup);
  return requestsPerSecond * SHARE;
}

/** Reads from the neighbours at a constant rate. All reads must succeed. */
export function neighbours(
  { flags }: Fleet,
  { url }: Service,
  tenants: readonly SeededTenant[],
  rate: number,
  round: number,
): OpenLoadJob {
  const { warmup, seconds } = flags;
  const requests = reads(REQUESTS, round, (random) => pick(tenants, random));
  return { url, rate, warmup, seconds, requests, successOnly: true };
}

export function runOpenLoad({ cleanup }: Fleet, job: OpenLoadJob): Promise<Result<'open-load'>> {
  return drive('open-load', job, { cleanup });
}

export function startOpenLoad({ cleanup }: Fleet, job: OpenLoadJob): Promise<Drive<'open-load'>> {
  return startDrive('open-load', job, { cleanup });
}

/** Latencies of an open load's answers, and the lateness of the generator, in ms. */
export interface Latencies {
  readonly p50: number;
  readonly p99: number;
  readonly lateness: number;
}

export function latenciesOf({ p50, p99, lateness }: Latencies): Latencies {
  return { p50, p99, lateness };
}

export function latenessWarnings(name: string, { p99, lateness }: Pick<Latencies, 'p99' | 'lateness'>): string[] {
  if (lateness <= LATE * p99) return [];
  return [`${name}: the load generator was late itself (p99 ${lateness.toFixed(1)} ms of ${p99.toFixed(1)}).`];
}

/** Describes the answers that are neither a success nor a refusal with Retry-After. @param rounds of each round */
export function otherWarnings(name: string, rounds: readonly { readonly firstOther: string | undefined }[]): string[] {
  const seen = rounds.map(({ firstOther }) => firstOther).find((what) => what !== undefined);
  return seen === undefined ? [] : [`${name}: the first of the other answers was: ${seen}.`];
}

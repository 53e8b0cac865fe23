// The values of RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-11): structured lists, with an item for each
// limit.
import type { Quota } from '../replicas/counts.js';

/** A limit that applies to a request, with its current state. */
export interface NotedQuota extends Quota {
  /** The name of the limit in both headers. */
  readonly name: string;
  readonly size: number;
  /** Time (ms) in which the whole quota comes back. */
  readonly refill: number;
}

/** Names of the headers, for the list of headers that browsers may read. */
export const QUOTA_HEADERS = ['ratelimit', 'ratelimit-policy'] as const;

/**
 * The values of both headers:
 *
 *     RateLimit-Policy: "address";q=1000;w=60, "tenant";q=200;w=1
 *     RateLimit: "address";r=50;t=57, "tenant";r=12;t=1
 */
export function quotaHeaders(quotas: readonly NotedQuota[]): Readonly<Record<(typeof QUOTA_HEADERS)[number], string>> {
  return {
    ratelimit: quotas.map(({ name, left, full }) => `"${name}";r=${left};t=${seconds(full)}`).join(', '),
    'ratelimit-policy': quotas.map(({ name, size, refill }) => `"${name}";q=${size};w=${seconds(refill)}`).join(', '),
  };
}

function seconds(ms: number): number {
  return Math.ceil(ms / 1_000);
}

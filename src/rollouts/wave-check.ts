// Compares tenants of a wave with the template, a few at a time: a rollout stops at the first wave that leaves differences.
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { AppError } from '../errors.js';
import { inPlainWords } from '../jobs/plain-words.js';
import type { Drift } from './drift.js';
import { inWords } from './schema-differences.js';

export interface WaveCheck {
  /** Tenants whose schema was compared. */
  readonly compared: number;
  /** Tenants with at least one difference. One that is behind counts: the wave should have migrated it. */
  readonly differing: number;
  /** The first difference, in the order of the tenants: `acme (<id>): products.price: expected type …, found type …`. */
  readonly first?: string;
  /** Tenants that could not be compared: their server is away, or their status has changed meanwhile. */
  readonly failed: number;
  /** Why the first of them could not be compared. */
  readonly firstFailure?: string;
}

export type CompareTenants = (
  tenants: readonly Pick<TenantRecord, 'id' | 'slug'>[],
  options?: {
    /** Ends the check before the next tenant. What was compared until then is the result. */
    readonly signal?: AbortSignal | undefined;
    /** How many are compared at once. */
    readonly atOnce?: number | undefined;
  },
) => Promise<WaveCheck>;

/** The most tenants of one check: comparing one takes as much of the server's time as migrating two. */
export const MOST_COMPARED = 5;

/** Each tenant takes a connection of its cluster's reserve. */
const AT_ONCE = 2;

interface Seen {
  readonly difference?: string | undefined;
  readonly failure?: string | undefined;
}

/** The check looks at the first MOST_COMPARED of the tenants. It never rejects because of one of them. */
export function createWaveCheck(drift: Drift): CompareTenants {
  async function see({ id, slug }: Pick<TenantRecord, 'id' | 'slug'>): Promise<Seen> {
    const about = (text: string): string => `${slug} (${id}): ${text}`;
    try {
      const { behind, version, expectedVersion, differences } = await drift.compareTenant(id);
      const [first] = differences;
      if (behind) return { difference: about(`expected schema ${expectedVersion}, found ${version ?? 'none'}`) };
      return { difference: first && about(inWords(first)) };
    } catch (error) {
      return { failure: about(error instanceof AppError && error.detail ? error.detail : inPlainWords(error)) };
    }
  }

  return async (tenants, { signal, atOnce = AT_ONCE } = {}) => {
    const chosen = tenants.slice(0, MOST_COMPARED);
    const seen: (Seen | undefined)[] = chosen.map(() => undefined);
    const waiting = chosen.entries();
    const worker = async (): Promise<void> => {
      for (const [index, tenant] of waiting) {
        if (signal?.aborted) return;
        seen[index] = await see(tenant);
      }
    };
    await Promise.all(Array.from({ length: Math.min(Math.max(1, atOnce), chosen.length) }, worker));
    const all = seen.flatMap((each) => each ?? []);
    const differing = all.flatMap(({ difference }) => difference ?? []);
    const failures = all.flatMap(({ failure }) => failure ?? []);
    const [first] = differing;
    const [firstFailure] = failures;
    return {
      compared: all.length - failures.length,
      differing: differing.length,
      failed: failures.length,
      ...(first !== undefined && { first }),
      ...(firstFailure !== undefined && { firstFailure }),
    };
  };
}

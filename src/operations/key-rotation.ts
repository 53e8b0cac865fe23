// Encrypts every database password with the current key now, for a person who waits for it. The service does the same by itself
// within about a minute (src/operations/reencryption.ts).
import type { Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { findUnfinishedOperation } from '../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { wantedKey } from '../../db/registry/sealed.js';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { auditAct } from '../audit/operator-act.js';
import type { KeyUse, Reencryption } from './reencryption.js';

interface RotationNow {
  readonly registry: Kysely<Registry>;
  readonly reencryption: Reencryption;
  readonly installation: () => Promise<string>;
}

/** ms. */
const LOOK_EVERY = 200;

/** Longest wait (ms) for a replica that works and makes no progress. */
const PATIENCE = 30_000;

/** What a rotation would do. */
export interface KeyPlan {
  /** The key that this process encrypts with. */
  readonly kid: string;
  /** The key that replicas encrypt with now; undefined if none has started. */
  readonly wanted: string | undefined;
  /** Passwords of older keys that this process has. */
  readonly rows: number;
}

export async function planKeyRotation({ registry, reencryption }: RotationNow): Promise<KeyPlan> {
  const uses = await reencryption.uses();
  const kid = uses.find(({ current }) => current)?.kid ?? '';
  return { kid, wanted: (await wantedKey(registry)) ?? undefined, rows: olderRows(uses) };
}

/**
 * Makes this process's current key the wanted one, and waits until no password that this process can decrypt has an older key.
 * Audited.
 *
 * @param onProgress called after each look with the rows that have the current key, of those that had an older one at first
 * @returns the uses of all keys afterwards
 * @throws AppError `unauthenticated`
 */
export async function rotateKeys(
  deps: RotationNow,
  { kid, rows }: KeyPlan,
  origin: AuditOrigin,
  onProgress: (done: number, total: number) => void,
): Promise<KeyUse[]> {
  const { registry, reencryption } = deps;
  await registry
    .transaction()
    .execute((trx) => auditAct(trx, { ...origin, action: 'keys.rotated', details: { kid, rows } }));
  await reencryption.begin();
  let left = rows;
  let changedAt = performance.now();
  const look = async (): Promise<void> => {
    const now = olderRows(await reencryption.uses());
    if (now !== left) changedAt = performance.now();
    left = now;
    onProgress(Math.max(0, rows - left), rows);
  };
  const state = { working: true };
  const ended = reencryption.run(new AbortController().signal).finally(() => {
    state.working = false;
  });
  // It may fail while this looks. The error comes from the wait below.
  ended.catch(() => undefined);
  while (state.working) {
    await look();
    await Promise.race([ended, sleep(LOOK_EVERY)]);
  }
  await ended;
  await look();
  // A replica may have begun the same work before. It goes on with it.
  while (
    left > 0 &&
    performance.now() - changedAt < PATIENCE &&
    (await findUnfinishedOperation(registry, await deps.installation(), 'reencrypt'))
  ) {
    await sleep(LOOK_EVERY);
    await look();
  }
  return reencryption.uses();
}

function olderRows(uses: readonly KeyUse[]): number {
  return uses.reduce((sum, { held, current, rows }) => (held && !current ? sum + rows : sum), 0);
}

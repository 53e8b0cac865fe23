// Encrypts passwords again with the current key, while the service serves: one operation of the installation, with a step for each
// column. Each batch is a short transaction, so a tenant's row is locked only for a moment. A process that remembers an old
// ciphertext can decrypt it until it loses the old key.
import type { Kysely } from 'kysely';
import { endWhenIdle } from '../../db/registry/job-locks.js';
import { insertOperation, noteStep } from '../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  countSealed,
  lockSealed,
  reseal,
  sealedColumns,
  setWantedKey,
  wantedKey,
  type SealedColumn,
  type SealedValue,
} from '../../db/registry/sealed.js';
import type { RecordEvent } from '../observability/security-events.js';
import { createEnvelope, type Envelope } from '../secrets/envelope.js';
import { LostOperation, PastReturn, type OperationKind, type Plan, type Step } from './runner/operation-kinds.js';
import type { Runner } from './runner/runner.js';

/** How many rows are encrypted with a key. */
export interface KeyUse {
  /** Null for rows that are not in the format of an envelope. */
  readonly kid: string | null;
  /** Whether this process has the key. If not, the tenants and clusters of these rows cannot be used. */
  readonly held: boolean;
  /** Whether this process encrypts with it. */
  readonly current: boolean;
  readonly rows: number;
}

export interface Reencryption {
  /**
   * Declares this process's current key the wanted key. From now on every replica with the same current key encrypts rows of
   * other keys again. Warns of rows whose key this process does not have. Call it when the process starts; otherwise the job
   * does.
   *
   * @throws DatabaseFault
   */
  begin(): Promise<void>;
  /**
   * The housekeeping job: begins the operation that encrypts again every row that this process can decrypt, if there are such rows,
   * and waits for it.
   *
   * @throws DatabaseFault
   */
  run(signal: AbortSignal): Promise<void>;
  /**
   * Every key that is held or in use. A key without rows can be removed from ENCRYPTION_KEYS.
   *
   * @param over the registry, over another pool
   * @throws DatabaseFault
   */
  uses(over?: Kysely<Registry>): Promise<KeyUse[]>;
}

export interface ReencryptionDeps {
  readonly registry: Kysely<Registry>;
  readonly runner: Runner;
  readonly installation: () => Promise<string>;
  /** The replica's id. */
  readonly replicaId: string;
  readonly keys: readonly { readonly kid: string; readonly key: Buffer }[];
  /** Called also once for each row that cannot be decrypted, and for each missing key. */
  readonly record: RecordEvent;
}

/** Rows in one transaction: about 5 ms. */
const BATCH = 100;

/** Rows whose warning is remembered. */
const MAX_TOLD = 10_000;

/** Rows that could not be decrypted are tried again after this time (ms). */
const TRY_AGAIN = 3_600_000;

export function createReencryption(deps: ReencryptionDeps): Reencryption {
  const { registry, runner, keys, record } = deps;
  const kid = keys[0]?.kid ?? '';
  const older = keys.slice(1).map((key) => key.kid);
  const ofTenants = createEnvelope(keys);
  const envelopes: Readonly<Record<SealedColumn, Envelope>> = {
    'tenants.db_password': ofTenants,
    'tenants.next_db_password': ofTenants,
    'standby_databases.db_password': ofTenants,
    'clusters.provisioner_password': createEnvelope(keys, 'clusters.provisioner_password'),
  };
  /** Ciphertexts that cannot be decrypted, by row: each is logged once. */
  const told = new Map<string, string>();
  let begun = false;
  /** How many rows of older keys the last operation of this process could not decrypt, and when. */
  let unreadable = { rows: 0, until: 0 };

  function sealAnew(column: SealedColumn, { sealed, ...context }: SealedValue): string | undefined {
    const envelope = envelopes[column];
    try {
      return envelope.seal(envelope.open(sealed, context), context);
    } catch (error) {
      const row = `${column} ${context.id}`;
      if (told.get(row) === sealed) return undefined;
      if (told.size >= MAX_TOLD) told.clear();
      told.set(row, sealed);
      record('password-unreadable', { err: error, column, targetId: context.id });
      return undefined;
    }
  }

  /** @param onBatch called after each batch with the rows that were encrypted again, and those that could not be */
  async function sealColumn(
    column: SealedColumn,
    onBatch: (changed: number, left: number) => Promise<void>,
  ): Promise<void> {
    let after: string | undefined;
    for (;;) {
      const batch = await registry.transaction().execute(async (trx) => {
        await endWhenIdle(trx);
        const found = await lockSealed(trx, column, { kids: older, after, limit: BATCH });
        const values = found.flatMap((value) => {
          const sealed = sealAnew(column, value);
          return sealed === undefined ? [] : [{ id: value.id, was: value.sealed, sealed }];
        });
        const changed = values.length > 0 ? await reseal(trx, column, values) : 0;
        return { last: found.at(-1)?.id, changed, left: found.length - values.length };
      });
      if (batch.last === undefined) return;
      after = batch.last;
      await onBatch(batch.changed, batch.left);
    }
  }

  /** Rows of older keys that this process has. */
  async function remaining(): Promise<number> {
    const counts = await countSealed(registry);
    return counts.reduce((sum, count) => (older.includes(count.kid ?? '') ? sum + count.rows : sum), 0);
  }

  const kind: OperationKind = {
    name: 'reencrypt',

    async plan(operation): Promise<Plan | 'done' | 'undone'> {
      const to = operation.details['kid'];
      // A newer replica has another current key by now, and begins an operation of its own.
      if ((await wantedKey(registry)) !== to) return 'undone';
      // A replica with that key continues. This one would encrypt with its own.
      if (to !== kid) throw new Error('this replica encrypts with another key');
      let done = operation.progressDone ?? 0;
      const total = done + (await remaining());
      let left = 0;
      const steps = sealedColumns.map((column): Step => ({
        name: column,
        // Rows that are encrypted with the current key are not found again.
        settled: () => Promise.resolve('not-done'),
        do: async () => {
          let rows = 0;
          await sealColumn(column, async (changed, unread) => {
            rows += changed;
            done += changed;
            left += unread;
            const progress = { done, total: Math.max(done, total) };
            if (!(await noteStep(registry, operation, { step: column, undoes: false, progress })))
              throw new LostOperation();
          });
          if (rows > 0) record('passwords-reencrypted', { kid, column, rows });
          if (column === sealedColumns.at(-1)) await ended(left);
        },
        // What is encrypted with the current key stays so.
        undo: () => Promise.reject(new PastReturn()),
      }));
      return { steps };
    },
  };
  runner.add(kind);

  async function ended(left: number): Promise<void> {
    unreadable = { rows: left, until: performance.now() + TRY_AGAIN };
    for (const use of await uses())
      if (use.held && !use.current && use.rows === 0) record('key-unused', { kid: use.kid });
  }

  async function begin(): Promise<void> {
    await setWantedKey(registry, kid);
    begun = true;
    for (const use of await uses()) {
      if (use.current || use.rows === 0) continue;
      if (use.held) {
        record('reencryption-begun', { kid: use.kid, rows: use.rows });
        continue;
      }
      const what =
        use.kid === null
          ? 'not encrypted with a known format'
          : `encrypted with the key "${use.kid}", which ENCRYPTION_KEYS does not hold`;
      const message = `${use.rows} database passwords are ${what}: their tenants or clusters cannot be used`;
      record('key-missing', { kid: use.kid, rows: use.rows }, undefined, message);
    }
  }

  async function uses(over = registry): Promise<KeyUse[]> {
    const counts = await countSealed(over);
    const held = keys.map((key) => ({
      kid: key.kid,
      held: true,
      current: key.kid === kid,
      rows: counts.find((count) => count.kid === key.kid)?.rows ?? 0,
    }));
    const others = counts.filter((count) => !keys.some((key) => key.kid === count.kid));
    return [...held, ...others.map((count) => ({ ...count, held: false, current: false }))];
  }

  return {
    begin,
    uses,

    async run(signal) {
      if (!begun) await begin();
      if (older.length === 0 || (await wantedKey(registry)) !== kid) return;
      const known = performance.now() < unreadable.until ? unreadable.rows : 0;
      if ((await remaining()) <= known) return;
      const subject = await deps.installation();
      const details = { kid };
      const operation = await insertOperation(registry, {
        kind: 'reencrypt',
        subject,
        details,
        worker: deps.replicaId,
      });
      const work = operation ? runner.work(kind, operation) : runner.settle(subject, 'reencrypt');
      // The operation goes on when the job ends.
      await Promise.race([work, aborted(signal)]);
    },
  };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => {
      resolve();
    });
  });
}

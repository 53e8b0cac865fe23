// Encrypts passwords again with the current key, while the service serves. Each batch is a short transaction, so a tenant's row
// is locked only for a moment. A process that remembers an old ciphertext can decrypt it until it loses the old key.
import type { Kysely } from 'kysely';
import { endWhenIdle } from '../../db/registry/job-locks.js';
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
  /** The housekeeping job: encrypts again every row that this process can decrypt. @throws DatabaseFault */
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
  readonly keys: readonly { readonly kid: string; readonly key: Buffer }[];
  /** Called also once for each row that cannot be decrypted, and for each missing key. */
  readonly record: RecordEvent;
}

/** Rows in one transaction: about 5 ms. */
const BATCH = 100;

/** Rows whose warning is remembered. */
const MAX_TOLD = 10_000;

export function createReencryption(deps: ReencryptionDeps): Reencryption {
  const { registry, keys, record } = deps;
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

  /** @returns how many rows were encrypted again */
  async function sealColumn(column: SealedColumn, signal: AbortSignal): Promise<number> {
    let rows = 0;
    let after: string | undefined;
    while (!signal.aborted) {
      const last = await registry.transaction().execute(async (trx) => {
        await endWhenIdle(trx);
        const found = await lockSealed(trx, column, { kids: older, after, limit: BATCH });
        const values = found.flatMap((value) => {
          const sealed = sealAnew(column, value);
          return sealed === undefined ? [] : [{ id: value.id, was: value.sealed, sealed }];
        });
        if (values.length > 0) rows += await reseal(trx, column, values);
        return found.at(-1)?.id;
      });
      if (last === undefined) break;
      after = last;
    }
    return rows;
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
      let changed = 0;
      for (const column of sealedColumns) {
        const rows = await sealColumn(column, signal);
        if (rows > 0) record('passwords-reencrypted', { kid, column, rows });
        changed += rows;
      }
      if (changed === 0) return;
      for (const use of await uses())
        if (use.held && !use.current && use.rows === 0) record('key-unused', { kid: use.kid });
    },
  };
}

// Proves that a new connection of a tenant pool leads to this tenant's database, on a server that is not a standby.
import { DatabaseFault, hasSqlState } from '../../db/driver/database-fault.js';
import type { Proof } from '../../db/driver/proof.js';
import { refuseStandby } from '../../db/driver/proof.js';
import { PROOF_QUERY, PROOF_QUERY_WITHOUT_VERSION } from '../../db/tenant/marker.js';
import type { AppError } from '../errors.js';

/** What the new connections of a pool found out about the database. */
export interface FoundState {
  /** Whether the database is read-only. */
  readOnly: boolean;
  /** The name of the database's newest migration; undefined if it is not known. */
  schemaVersion: string | undefined;
}

const UNDEFINED_TABLE = '42P01';

/**
 * For this long (ms) new connections do not ask for the version again, since asking costs each connection about 0.5 ms. `known`
 * applies after an answer. `unknown` applies if the database is older than the view that has the version.
 */
const VERSION_ASKED_AGAIN = { known: 10_000, unknown: 60_000 };

/**
 * @param found is kept up to date
 * @param refuse makes the error for a database that belongs to another tenant, or cannot be asked
 */
export function proofFor(
  tenantId: string,
  found: FoundState,
  refuse: (cause: unknown) => AppError,
): (query: Query) => Promise<Proof> {
  let askVersionAt = -Infinity;

  async function ask(query: Query): Promise<Row | undefined> {
    const withVersion = performance.now() >= askVersionAt;
    try {
      const [row] = await query(withVersion ? PROOF_QUERY : PROOF_QUERY_WITHOUT_VERSION);
      if (!withVersion) return row;
      askVersionAt = performance.now() + VERSION_ASKED_AGAIN.known;
      found.schemaVersion = typeof row?.['schemaVersion'] === 'string' ? row['schemaVersion'] : undefined;
      return row;
    } catch (error) {
      if (!withVersion || !hasSqlState(error, UNDEFINED_TABLE))
        throw error instanceof DatabaseFault ? error : refuse(error);
      // A database that is not migrated yet is served too.
      askVersionAt = performance.now() + VERSION_ASKED_AGAIN.unknown;
      found.schemaVersion = undefined;
      return ask(query);
    }
  }

  return async (query) => {
    const row = await ask(query);
    refuseStandby(row);
    const marker = row?.['tenantId'];
    if (marker !== tenantId) {
      const whose = typeof marker === 'string' ? marker : 'no tenant';
      throw refuse(new Error(`the database that this tenant's row names has the marker of ${whose}`));
    }
    found.readOnly = row?.['readOnly'] === true;
    return { readOnly: found.readOnly };
  };
}

type Row = Record<string, unknown>;
type Query = (text: string) => Promise<Row[]>;

// Proves that a new connection of a tenant pool leads to this tenant's database, on a server that is not a standby, and that this
// build serves the database's schema.
import { DatabaseFault, hasSqlState } from '../../db/driver/database-fault.js';
import type { Proof } from '../../db/driver/proof.js';
import { refuseStandby, serverIn } from '../../db/driver/proof.js';
import { PROOF_QUERY, PROOF_QUERY_WITHOUT_SCHEMA } from '../../db/tenant/marker.js';
import { schemaIs, type FoundSchema } from '../../db/tenant/served-schemas.js';
import type { AppError } from '../errors.js';

/** What the new connections of a pool found out about the database. */
export interface FoundState {
  /** Whether the database is read-only. */
  readOnly: boolean;
  /** The name of the database's newest migration; undefined if it is not known. */
  schemaVersion: string | undefined;
}

export interface ProofOutcomes {
  /** Makes the error for a database that belongs to another tenant, or cannot be asked. */
  readonly wrongDatabase: (cause: unknown) => AppError;
  /**
   * Makes the error for a database whose schema this build does not serve.
   *
   * @param wasServed whether the schema was one that this build serves when an earlier connection asked
   */
  readonly unservedSchema: (schema: FoundSchema, wasServed: boolean) => AppError;
  /** Called when this build serves the schema. */
  readonly served: () => void;
}

/**
 * The SQLSTATEs of PROOF_QUERY in a database that does not show its schema: the view is not there, or has just been made and the
 * grants that follow the migrations have not run yet.
 */
const SHOWS_NO_SCHEMA = ['42P01', '42501'];

/**
 * After a schema that is served, new connections do not ask for it again for this long (ms): asking costs each connection about
 * 0.6 ms.
 */
const ASKED_AGAIN_AFTER = 10_000;

/** @param found is kept up to date */
export function proofFor(
  tenantId: string,
  found: FoundState,
  outcomes: ProofOutcomes,
): (query: Query) => Promise<Proof> {
  let askAgainAt = -Infinity;

  /** `schema` is undefined if it was not asked for. */
  async function ask(query: Query): Promise<{ row: Row | undefined; schema?: FoundSchema }> {
    const withoutSchema = async (): Promise<Row | undefined> => (await query(PROOF_QUERY_WITHOUT_SCHEMA))[0];
    if (performance.now() < askAgainAt) return { row: await withoutSchema() };
    try {
      const [row] = await query(PROOF_QUERY);
      return { row, schema: schemaIn(row) };
    } catch (error) {
      if (!SHOWS_NO_SCHEMA.some((state) => hasSqlState(error, state))) throw error;
      return { row: await withoutSchema(), schema: { name: undefined, needs: undefined } };
    }
  }

  return async (query) => {
    const { row, schema } = await ask(query).catch((error: unknown) => {
      throw error instanceof DatabaseFault ? error : outcomes.wrongDatabase(error);
    });
    refuseStandby(row);
    const marker = row?.['tenantId'];
    if (marker !== tenantId) {
      const whose = typeof marker === 'string' ? marker : 'no tenant';
      throw outcomes.wrongDatabase(new Error(`the database that this tenant's row names has the marker of ${whose}`));
    }
    if (schema) {
      found.schemaVersion = schema.name;
      if (schemaIs(schema) !== 'served') throw outcomes.unservedSchema(schema, askAgainAt > 0);
      askAgainAt = performance.now() + ASKED_AGAIN_AFTER;
      outcomes.served();
    }
    found.readOnly = row?.['readOnly'] === true;
    return { readOnly: found.readOnly, server: serverIn(row) };
  };
}

function schemaIn(row: Row | undefined): FoundSchema {
  const { name, needs } = (row?.['schema'] ?? {}) as { name?: string | null; needs?: string | null };
  return { name: name ?? undefined, needs: needs ?? undefined };
}

type Row = Record<string, unknown>;
type Query = (text: string) => Promise<Row[]>;

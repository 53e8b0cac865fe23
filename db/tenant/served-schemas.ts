// The schemas of tenants' databases that this build serves: from the oldest to the newest, and those of newer builds that need no
// newer build (`Migration.needs`).
import { latestVersion } from '../shared/migrator.js';
import { tenantMigrations } from './migrations/index.js';

export const SERVED_SCHEMAS = {
  /**
   * The oldest schema on which every statement of this build runs: writes with an Idempotency-Key need its table. Raise it with the
   * first statement that needs a later migration.
   */
  oldest: '0011_idempotency_keys',
  /** The schema that this build gives to tenants' databases. */
  newest: latestVersion(tenantMigrations),
} as const;

/** The newest schema that a database can have if it does not say which. */
export const NEWEST_SILENT_SCHEMA = '0007_session_generations';

/** What a database says about its schema. */
export interface FoundSchema {
  /** The newest migration; undefined in a database from before `0008_schema_version`. */
  readonly name: string | undefined;
  /** The newest migration that a build must know to work with the database. */
  readonly needs: string | undefined;
}

/** Whether this build serves the schema, or why it does not. */
export function schemaIs({ name, needs }: FoundSchema): 'served' | 'too-old' | 'too-new' {
  const { oldest, newest } = SERVED_SCHEMAS;
  if (name === undefined || name < oldest) return 'too-old';
  return needs !== undefined && needs > newest ? 'too-new' : 'served';
}

// What a migration is.
import type { Kysely } from 'kysely';

export interface Migration {
  up(db: Kysely<unknown>): Promise<void>;
  /**
   * `false` for statements that PostgreSQL refuses in a transaction, such as CREATE INDEX CONCURRENTLY. A process may be killed at
   * any line of such a migration, so the migration must be able to run again: `drop index concurrently if exists` first.
   */
  readonly transaction?: false;
  /**
   * The newest migration that a build must know to work with a database after this migration. Undefined if every former build
   * does, because the migration only adds.
   */
  readonly needs?: string;
  /** SHA-256 of the source file, in hex. Undefined for migrations of tests. */
  readonly hash?: string;
}

/** Migrations by name. They run in the order of their names. */
export type Migrations = Readonly<Record<string, Migration>>;

import type { Kysely } from 'kysely';
import { addSessionColumns } from '../../shared/session-migrations.js';

export async function up(db: Kysely<unknown>): Promise<void> {
  await addSessionColumns(db);
}

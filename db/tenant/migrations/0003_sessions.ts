import type { Kysely } from 'kysely';
import { createSessions } from '../../shared/session-migrations.js';

export async function up(db: Kysely<unknown>): Promise<void> {
  await createSessions(db, 'users');
}

import type { Kysely } from 'kysely';
import { stampAudit } from '../../shared/audit-migrations.js';

export async function up(db: Kysely<unknown>): Promise<void> {
  await stampAudit(db);
}

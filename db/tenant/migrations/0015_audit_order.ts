import type { Kysely } from 'kysely';
import { addAuditOrder } from '../../shared/audit-migrations.js';

export async function up(db: Kysely<unknown>): Promise<void> {
  await addAuditOrder(db);
}

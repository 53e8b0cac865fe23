// The registry's own id. Everything that the service makes on a cluster carries it.
import type { Kysely } from 'kysely';
import type { Registry } from './registry-schema.js';

export async function findInstallationId(db: Kysely<Registry>): Promise<string> {
  const { id } = await db.selectFrom('installation').select('id').executeTakeFirstOrThrow();
  return id;
}

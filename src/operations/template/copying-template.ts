// Copies the template, or says in plain words why the server refuses to.
import { wasAnswered } from '../../../db/driver/database-fault.js';
import { createTenantDatabase, type ClusterDb } from '../../../db/server/server-admin.js';
import { findCopyObstacle } from '../../../db/server/templates.js';
import { tenantMigrations } from '../../../db/tenant/migrations/index.js';
import { PlainError } from '../../jobs/plain-words.js';
import { templateName } from './template-names.js';

/**
 * Makes a database from this build's template.
 *
 * @param owner the role of the templates and databases on the server
 * @throws PlainError if the template is missing, or PostgreSQL refuses to copy it
 */
export async function copyTemplate(
  cluster: ClusterDb,
  owner: string,
  database: Omit<Parameters<typeof createTenantDatabase>[1], 'template'>,
): Promise<void> {
  const template = templateName(tenantMigrations, owner);
  try {
    await createTenantDatabase(cluster, { ...database, template });
  } catch (error) {
    const why = wasAnswered(error) ? await findTemplateProblem(cluster, owner).catch(() => undefined) : undefined;
    throw why === undefined ? error : new PlainError(why, { cause: error });
  }
}

/** Why no database can be made from this build's template, as a sentence without its full stop; undefined if one can. */
export async function findTemplateProblem(cluster: ClusterDb, owner: string): Promise<string | undefined> {
  const obstacle = await findCopyObstacle(cluster, templateName(tenantMigrations, owner));
  if (!obstacle) return undefined;
  if (obstacle.kind === 'missing')
    return 'the server has no template database of this build: run `npm run migrate` of this build';
  const { made, now } = obstacle;
  return `the template database was made with version ${made} of the collation, and the server now has ${now ?? 'none'}: run \`npm run migrate\``;
}

// The schema that the tenants' databases of a server should have: that of the template, with the rights of a runtime role. The template
// is read once and kept in memory, because it is closed and must be opened for the reading.
import { whileOpenToOwner } from '../../db/server/access.js';
import { readDatabaseSchema } from '../../db/server/database-schema.js';
import { ROLES, type DatabaseSchema, type SchemaObject } from '../../db/server/schema-objects.js';
import { findTemplateIdentity, whileTemplatesLocked } from '../../db/server/templates.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { runtimeRightsOn } from '../../db/tenant/tenant-grants.js';
import type { Place } from '../clusters/provisioners.js';
import { PlainError } from '../jobs/plain-words.js';
import { recentMap } from '../lib/recent-map.js';
import type { TemplateServer } from '../operations/template/building-template.js';
import { templateName } from '../operations/template/template-names.js';

export interface TemplateSchemas {
  /**
   * The schema of this build's template on a server. A template that is missing is made first.
   *
   * @throws PlainError if the template cannot be made; DatabaseFault
   */
  of(server: TemplateServer, place: Place): Promise<DatabaseSchema>;
}

/** Servers whose template is remembered. A schema takes about 100 kB. */
const MOST_REMEMBERED = 100;

/** @param ensureTemplate makes the template of a server if it is missing */
export function createTemplateSchemas(
  ensureTemplate: (server: TemplateServer, place: Place) => Promise<unknown>,
): TemplateSchemas {
  const remembered = recentMap<string, Promise<DatabaseSchema>>(MOST_REMEMBERED);

  return {
    async of(server, place) {
      const name = templateName(tenantMigrations, server.role);
      let identity = await findTemplateIdentity(server.cluster, name);
      if (identity === undefined) {
        await ensureTemplate(server, place);
        identity = await findTemplateIdentity(server.cluster, name);
      }
      if (identity === undefined) throw new PlainError('the server has no template database of this build');
      const key = `${place.host}:${place.port} ${identity}`;
      const known = remembered.get(key);
      if (known) return known;
      const reading = readTemplate(server, name);
      remembered.set(key, reading);
      // A reading that failed is not remembered.
      reading.catch(() => {
        if (remembered.get(key) === reading) remembered.delete(key);
      });
      return reading;
    },
  };
}

/**
 * Opens the template for the reading, under the lock of the server's templates: another reader does not close it meanwhile. A CREATE
 * DATABASE that copies the template at that moment waits for the end of the session. If the process is killed here, the template
 * stays open to its owner, which harms nothing, and the next reading closes it.
 */
function readTemplate({ cluster, inDatabase }: TemplateServer, name: string): Promise<DatabaseSchema> {
  return whileTemplatesLocked(cluster, (locked) =>
    whileOpenToOwner(locked, name, () => inDatabase(name, (db) => readDatabaseSchema(db))),
  );
}

/** What a tenant's database should have: the template's schema, and the rights of the tenant's runtime role. */
export function expectedSchema(template: DatabaseSchema): DatabaseSchema {
  const tables = template.filter(
    ({ kind, parent }) => (kind === 'table' || kind === 'view') && parent === 'schema public',
  );
  return [
    ...template,
    rights('database', 'the database', ['CONNECT']),
    rights('schema public', 'public', ['USAGE']),
    ...tables.map(({ id, name }) => rights(id, name, runtimeRightsOn(name))),
  ];
}

/** The id of the right to connect, which a tenant's role has only while its database is open. */
export const RIGHT_TO_CONNECT = `grant on database to ${ROLES.runtime}`;

function rights(object: string, name: string, list: readonly string[]): SchemaObject {
  const facts = { role: ROLES.runtime, rights: list.join(', ') };
  return { kind: 'grant', id: `grant on ${object} to ${ROLES.runtime}`, parent: object, name, facts };
}

// Rows and marks that the service would not write by itself: those of former builds, of a registry that went back in time, and of
// databases that were restored from a dump.
import { sql, type RawBuilder } from 'kysely';
import { inject, onTestFinished } from 'vitest';
import { findInstallationId } from '../../db/registry/installation.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import {
  ADMIN,
  asSuperuser,
  createRegistry,
  startServiceIn,
  type Answer,
  type Problem,
  type TestService,
} from './app.js';
import { inside } from './evidence.js';
import { rowOf } from './tenants.js';

export type Answered = Answer<Problem & { id: string; detail: string }>;

/** A service that has no standby databases and looks for leftovers and orphans every hour. `lines` are of its log. */
export async function startQuietService(
  env: Readonly<Record<string, string>> = {},
): Promise<TestService & { readonly lines: readonly string[] }> {
  const lines: string[] = [];
  const service = await startServiceIn(inject('cluster'), {
    registry: await createRegistry(),
    env: { RECONCILE_EVERY_MS: '3600000', STANDBY_DATABASES: '0', LOG_LEVEL: 'warn', ...env },
    overrides: { logStream: { write: (line: string) => void lines.push(line) } },
  });
  onTestFinished(() => service.close());
  return { ...service, lines };
}

/** Makes or adopts a tenant; its name is its slug. */
export function make(
  { send }: Pick<TestService, 'send'>,
  token: string,
  slug: string,
  more: object = {},
): Promise<Answered> {
  return send('POST', '/tenants', { token, body: { name: slug, slug, admin: ADMIN, ...more } });
}

/** Sends an operator's act on a tenant: `DELETE`, or the end of its path, such as `purge?database=keep`. */
export function actOn({ send, operatorToken: token }: TestService, id: string, act: string): Promise<Answered> {
  return act === 'DELETE'
    ? send('DELETE', `/tenants/${id}`, { token })
    : send('POST', `/tenants/${id}/${act}`, { token });
}

/** Writes a tenant's row without its triggers. */
export async function writeRow({ config }: TestService, id: string, values: RawBuilder<unknown>): Promise<void> {
  await asSuperuser(config.registry.connection.database, (db) =>
    db.transaction().execute(async (trx) => {
      await sql`set local session_replication_role = replica`.execute(trx);
      await sql`update tenants set ${values} where id = ${id}`.execute(trx);
    }),
  );
}

/** The row's status; undefined without a row. */
export async function statusOf({ config }: TestService, id: string): Promise<string | undefined> {
  const { rows } = await asSuperuser(config.registry.connection.database, (db) =>
    sql<{ status: string }>`select status from tenants where id = ${id}`.execute(db),
  );
  return rows[0]?.status;
}

/** The comment on a database; null if there is none. */
export async function commentOn(name: string): Promise<string | null> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ text: string | null }>`
      select shobj_description(oid, 'pg_database') as text from pg_database where datname = ${name}`.execute(db),
  );
  return rows[0]?.text ?? null;
}

/** Sets the comment of a database and of its role; null removes it. */
export async function commentOnBoth(
  { dbName, dbUser }: TenantRecord,
  text: string | null,
  roleText = text,
): Promise<void> {
  await asSuperuser('postgres', async (db) => {
    await sql`comment on database ${sql.id(dbName)} is ${sql.lit(text)}`.execute(db);
    await sql`comment on role ${sql.id(dbUser)} is ${sql.lit(roleText)}`.execute(db);
  });
}

export async function roleExists(role: string): Promise<boolean> {
  const { rows } = await asSuperuser('postgres', (db) => sql`select from pg_roles where rolname = ${role}`.execute(db));
  return rows.length > 0;
}

/** The mark of a former build, which did not change during a tenant's life. */
export async function formerMark({ app }: TestService, id: string): Promise<string> {
  return `tenantry ${await findInstallationId(app.engine.registry)} ${id} tenant`;
}

/**
 * Turns a tenant into one of a former build: without a claim in its mark, its database and its row.
 *
 * @param values further values of the row
 * @returns the previous row
 */
export async function asOfFormerBuild(
  service: TestService,
  id: string,
  values: RawBuilder<unknown> = sql`updated_at = now()`,
): Promise<TenantRecord> {
  const row = await rowOf(service, { id });
  await commentOnBoth(row, await formerMark(service, id));
  await inside(row.dbName, (db) => sql`update tenant_marker set claim = null`.execute(db));
  await writeRow(service, id, sql`claim = null, generation = 0, ${values}`);
  return row;
}

// Drift: compares the schema of a tenant's database with the template's, and names what differs.
//
//     row ── mark ── history ── is behind, or newer ──> not compared: the migration would be the difference
//                        └───── is this build's ──> template's schema ── database's schema ──> differences
//
// A database that is closed is opened to its owner meanwhile, under the tenant's lock.
import type { Kysely } from 'kysely';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { readDatabaseSchema } from '../../db/server/database-schema.js';
import { namesIn, type DatabaseSchema } from '../../db/server/schema-objects.js';
import type { HistoryVerdict } from '../../db/shared/migration-history.js';
import { historyOf, latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { Place } from '../clusters/provisioners.js';
import { AppError } from '../errors.js';
import { inPlainWords, PlainError } from '../jobs/plain-words.js';
import { within } from '../lib/deadline.js';
import { isAdopted, look, whyLeft } from '../operations/evidence.js';
import type { TemplateServer } from '../operations/template/building-template.js';
import { databaseIs } from '../tenants/tenant-states.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import { compareSchemas, limited, type SchemaDifference, type SchemaDifferences } from './schema-differences.js';
import { createTemplateSchemas, expectedSchema, RIGHT_TO_CONNECT } from './template-schema.js';

export interface TenantDrift extends SchemaDifferences {
  /** The newest migration that the database has run; null if it has run none. */
  readonly version: string | null;
  /** The schema version of this build. */
  readonly expectedVersion: string;
  /** The database has not run all migrations of this build. It is not compared. */
  readonly behind: boolean;
  /** A newer build has migrated the database. It is not compared. */
  readonly ahead: boolean;
}

export interface Drift {
  /**
   * @returns the differences between the tenant's database and the template of its server
   * @throws AppError `not-found`; `tenant-state` if the tenant has no finished database, or its database carries another mark;
   *   `unavailable` with a reason if the server is unknown or away, or does not answer in time
   */
  compareTenant(tenantId: string): Promise<TenantDrift>;
}

export interface DriftDeps {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly installation: () => Promise<string>;
  /** Enters the server of a tenant as its provisioner. Undefined if no cluster is known there. */
  readonly enter: (place: Place) => Promise<TemplateServer | undefined>;
  /** Makes the template of a server if it is missing. */
  readonly ensureTemplate: (server: TemplateServer, place: Place) => Promise<unknown>;
  /** Longest time (ms) of a comparison, instead of DEADLINE. */
  readonly deadline?: number | undefined;
}

/** Longest time (ms) of a comparison, with the making of a template that is missing. */
const DEADLINE = 20_000;

/** Seconds after which it makes sense to try again. */
const RETRY_AFTER = 5;

const expectedVersion = latestVersion(tenantMigrations);

export function createDrift(deps: DriftDeps): Drift {
  const { registry, locks, deadline = DEADLINE } = deps;
  const templates = createTemplateSchemas(deps.ensureTemplate);

  async function compare(tenantId: string): Promise<TenantDrift> {
    const tenant = await existing(registry, tenantId);
    if (databaseIs[tenant.status] === 'open') return compareAt(tenant);
    // Read again within the lock: it may have been resumed or purged.
    return locks.hold(tenantId, async () => compareAt(await existing(registry, tenantId)));
  }

  async function compareAt(tenant: TenantRecord): Promise<TenantDrift> {
    const { dbHost: host, dbPort: port, dbName, status } = tenant;
    const door = databaseIs[status];
    if (!door) throw stateError(`The tenant is ${status}: it has no finished database.`);
    const server = await deps.enter({ host, port });
    if (!server) throw new PlainError('no cluster is registered at the address of its server');
    const seen = await look(server, tenant, await deps.installation());
    if (!seen) throw new PlainError('its server has no database of this tenant');
    if (seen.verdict === 'newer' || seen.verdict === 'foreign')
      throw stateError(`The database of the tenant is not entered: ${whyLeft(seen.verdict, seen.found)}.`);
    // Before the tenant's database is opened: a template that is missing takes seconds.
    const template = await templates.of(server, { host, port });
    const read = (): Promise<TenantDrift> => compareInside(server, tenant, template);
    return door === 'open' || seen.found.open ? read() : whileOpenToOwner(server.cluster, dbName, read);
  }

  async function compareInside(
    server: TemplateServer,
    tenant: TenantRecord,
    template: DatabaseSchema,
  ): Promise<TenantDrift> {
    const { dbName, dbUser, status } = tenant;
    const adopted = isAdopted(tenant);
    const { history, found } = await server.inDatabase(dbName, async (db) => {
      const verdict = await historyOf(db, tenantMigrations);
      if (isNotCompared(verdict)) return { history: verdict, found: undefined };
      const reading = { runtimeRole: dbUser, expected: namesIn(template), onlyExpected: adopted };
      return { history: verdict, found: await readDatabaseSchema(db, reading) };
    });
    const versions = { version: versionOf(history), expectedVersion };
    if (!found) {
      const behind = history.state === 'behind';
      return { ...versions, behind, ahead: !behind, total: 0, differences: [] };
    }
    const open = databaseIs[status] === 'open';
    const compared = compareSchemas(doorless(expectedSchema(template), open), doorless(found, open), { adopted });
    return { ...versions, behind: false, ahead: false, ...withHistory(history, compared) };
  }

  return {
    async compareTenant(tenantId) {
      try {
        return await within(compare(tenantId), deadline, () => new PlainError('its server did not answer in time'));
      } catch (error) {
        if (error instanceof DatabaseFault || error instanceof PlainError) throw unavailable(error);
        throw error;
      }
    },
  };
}

/** The right to connect follows the status of the tenant, which another job keeps (src/operations/doors/door-drift.ts). */
function doorless(schema: DatabaseSchema, open: boolean): DatabaseSchema {
  return open ? schema : schema.filter(({ id }) => id !== RIGHT_TO_CONNECT);
}

async function existing(registry: Kysely<Registry>, id: string): Promise<TenantRecord> {
  const tenant = await findTenant(registry, id);
  if (!tenant) throw new AppError('not-found');
  return tenant;
}

function stateError(detail: string): AppError {
  return new AppError('tenant-state', { detail });
}

function unavailable(error: DatabaseFault | PlainError): AppError {
  const retryAfter = error instanceof DatabaseFault ? (error.retryAfter ?? RETRY_AFTER) : RETRY_AFTER;
  const detail = `The database of the tenant could not be compared: ${inPlainWords(error)}.`;
  return new AppError('unavailable', { detail, retryAfter, cause: error });
}

function isNotCompared({ state }: HistoryVerdict): boolean {
  return state === 'behind' || state === 'newer' || state === 'too-new';
}

function versionOf({ pending, newer }: HistoryVerdict): string | null {
  const ran = Object.keys(tenantMigrations).filter((name) => !pending.includes(name));
  return newer.at(-1) ?? ran.sort().at(-1) ?? null;
}

/** A history that differs comes first: it is the reason for other differences. */
function withHistory({ differences: sentences }: HistoryVerdict, compared: SchemaDifferences): SchemaDifferences {
  if (sentences.length === 0) return compared;
  const own = sentences.map((found): SchemaDifference => ({
    kind: 'migration',
    object: 'the history',
    expected: "this build's migrations in their order",
    found,
  }));
  return {
    total: own.length + compared.total,
    differences: limited([...own, ...compared.differences]).differences,
  };
}

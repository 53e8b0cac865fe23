// The indexes of lists in databases that are there already: an adopted one, one without the extension, and one whose migration is
// killed while an index is built.
import {
  sql,
  type Kysely,
  type KyselyPlugin,
  type PluginTransformQueryArgs,
  type PluginTransformResultArgs,
  type QueryId,
  type RootOperationNode,
} from 'kysely';
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { migrateToLatest, pendingMigrations, type Migrations } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { listProducts } from '../../db/tenant/product-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { asSuperuser, connectAs } from '../support/app.js';
import { eventually } from '../support/service-process.js';

const FAST_LISTS = '0013_fast_lists';
const former: Migrations = Object.fromEntries(Object.entries(tenantMigrations).filter(([name]) => name < FAST_LISTS));

const NEW_INDEXES = ['products_active_created_at_id', 'products_category_created_at_id', 'users_active_created_at_id'];
const SEARCHES = ['products_search', 'users_search'];

let name: string;
let made = 0;
let owner: DatabaseHandle<TenantDatabase>;

beforeEach(async () => {
  name = `list_indexes_${process.pid}_${(made += 1)}`;
  const { user } = inject('cluster').provisioner;
  await asSuperuser('postgres', (db) => sql`create database ${sql.id(name)} owner ${sql.id(user)}`.execute(db));
  owner = connectAs<TenantDatabase>(name, inject('cluster').provisioner);
  await migrateToLatest(owner.db, former);
  await sql`
    insert into products (id, name, price) select gen_random_uuid(), 'Lamp ' || n, n from generate_series(1, 50) n`.execute(
    owner.db,
  );
});
afterEach(async () => {
  await owner.close(0);
  await asSuperuser('postgres', (db) => sql`drop database ${sql.id(name)} with (force)`.execute(db));
});

/** The names of the indexes that this migration makes or removes. */
async function indexes(isValid: boolean): Promise<string[]> {
  return asSuperuser(name, async (db) => {
    const { rows } = await sql<{ name: string }>`
      select relname as name from pg_index join pg_class on pg_class.oid = indexrelid
      where indisvalid = ${isValid}
        and relname = any(${[...NEW_INDEXES, ...SEARCHES, 'products_category']}) order by relname`.execute(db);
    return rows.map((row) => row.name);
  });
}

async function lampsIn(db: Kysely<TenantDatabase>): Promise<number> {
  const page = { sort: 'name', direction: 'asc', limit: 100, search: 'lamp' } as const;
  return (await listProducts(db, page)).length;
}

describe('a database with rows', () => {
  it('gets the indexes, by an owner who is no superuser', async () => {
    expect(await indexes(true)).toEqual(['products_category']);
    expect(await migrateToLatest(owner.db, tenantMigrations)).toContain(FAST_LISTS);
    expect(await indexes(true)).toEqual([...NEW_INDEXES, ...SEARCHES].sort());
    expect(await indexes(false)).toEqual([]);
    expect(await lampsIn(owner.db)).toBe(50);
  });

  it('may have the extension in a schema of its own', async () => {
    await asSuperuser(name, async (db) => {
      await sql`create schema tools`.execute(db);
      await sql`create extension pg_trgm schema tools`.execute(db);
      await sql`grant usage on schema tools to public`.execute(db);
    });
    await migrateToLatest(owner.db, tenantMigrations);
    expect(await indexes(true)).toEqual([...NEW_INDEXES, ...SEARCHES].sort());
  });

  it('is migrated without the indexes for searches if the extension cannot be made, and searched all the same', async () => {
    await asSuperuser('postgres', (db) =>
      sql`revoke create on database ${sql.id(name)} from ${sql.id(inject('cluster').provisioner.user)}`.execute(db),
    );
    expect(await migrateToLatest(owner.db, tenantMigrations)).toContain(FAST_LISTS);
    expect(await indexes(true)).toEqual(NEW_INDEXES);
    expect(await lampsIn(owner.db)).toBe(50);
  });
});

/** Calls `then` after a migration has dropped what an interrupted run left of an index, and before it builds the index. */
class BeforeIndex implements KyselyPlugin {
  #dropping: QueryId | undefined;

  constructor(
    private readonly index: string,
    private readonly then: () => Promise<void>,
  ) {}

  transformQuery({ node, queryId }: PluginTransformQueryArgs): RootOperationNode {
    const text = JSON.stringify(node);
    if (text.includes('drop index') && text.includes(`"${this.index}"`)) this.#dropping = queryId;
    return node;
  }

  async transformResult({ queryId, result }: PluginTransformResultArgs): Promise<PluginTransformResultArgs['result']> {
    if (queryId === this.#dropping) await this.then();
    return result;
  }
}

describe('a migration that is killed while it builds an index', () => {
  it.each([...NEW_INDEXES, ...SEARCHES])(
    '%s leaves lists that work, and is finished by the next run',
    async (index) => {
      const fastLists = tenantMigrations[FAST_LISTS];
      if (!fastLists) throw new Error('there is no such migration');
      const other = connectAs<unknown>(name);
      const isBuilt = sql`datname = ${name} and query ~ 'create index concurrently' and query like ${`%${index}%`}`;
      try {
        await other.db.connection().execute(async (connection) => {
          // The building of an index waits for this snapshot when it is nearly done.
          const hold = new BeforeIndex(index, async () => {
            await sql`begin isolation level repeatable read`.execute(connection);
            await sql`select txid_current()`.execute(connection);
          });
          const held = { ...fastLists, up: (db: Kysely<unknown>) => fastLists.up(db.withPlugin(hold)) };
          const migrating = migrateToLatest(owner.db, { ...tenantMigrations, [FAST_LISTS]: held });
          const killed = expect(migrating).rejects.toThrow();
          await eventually(`${index} is nearly built`, () =>
            asSuperuser('postgres', async (db) => {
              const { rows } = await sql`
              select from pg_stat_activity where ${isBuilt} and wait_event_type = 'Lock'`.execute(db);
              return rows.length > 0;
            }),
          );
          await asSuperuser('postgres', (db) =>
            sql`select pg_terminate_backend(pid) from pg_stat_activity where ${isBuilt}`.execute(db),
          );
          await killed;
          await sql`rollback`.execute(connection);
        });
        expect(await indexes(false)).toEqual([index]);
        expect(await pendingMigrations(owner.db, tenantMigrations)).toContain(FAST_LISTS);
        expect(await lampsIn(owner.db)).toBe(50);
        await migrateToLatest(owner.db, tenantMigrations);
        expect(await indexes(true)).toEqual([...NEW_INDEXES, ...SEARCHES].sort());
        expect(await indexes(false)).toEqual([]);
      } finally {
        await other.close(0);
      }
    },
  );
});

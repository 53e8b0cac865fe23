// The cached standing of users: a change of a role makes the users of its tenant be read again, and no others.
import { DummyDriver, Kysely, PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { setRunner } from '../../db/driver/statement.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { createStandings, type Standings } from '../../src/auth/standing.js';
import type { Change } from '../../src/replicas/events.js';

const dialect = {
  createAdapter: () => new PostgresAdapter(),
  createDriver: () => new DummyDriver(),
  createIntrospector: (db: Kysely<unknown>) => new PostgresIntrospector(db),
  createQueryCompiler: () => new PostgresQueryCompiler(),
};

let tell: (change: Change) => void;
let standings: Standings;
/** Every user whose row was read, by tenant. */
let asked: string[];
/** Called while rows are being read. */
let meanwhile: () => void;
/** Tenants whose other values were read at the same time. */
let together: string[];

beforeEach(() => {
  asked = [];
  together = [];
  meanwhile = () => undefined;
  const events = {
    live: true,
    caughtUp: () => undefined,
    clock: () => undefined,
    queueUsage: 0,
    subscribe: (listener: (change: Change) => void) => void (tell = listener),
    publish: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
  const database = (tenantId: string): Kysely<TenantDatabase> => {
    const db = new Kysely<TenantDatabase>({ dialect });
    const read = <Row>(_text: string, values: readonly unknown[]): Promise<Row[]> => {
      const ids = values[0] as readonly string[];
      asked.push(`${tenantId} ${ids.join(' ')}`);
      meanwhile();
      const permissions = [`version:${asked.length}`];
      return Promise.resolve(ids.map((id) => ({ id, active: true, permissions })) as Row[]);
    };
    setRunner(db, { read, run: read });
    return db;
  };
  standings = createStandings(new Kysely<Registry>({ dialect }), events, database, (id) => void together.push(id));
});

const permissionsOf = async (tenantId: string, userId: string): Promise<readonly string[] | undefined> =>
  (await standings.user(tenantId, userId))?.permissions;

describe('a user', () => {
  it('is read once, and again after its own change', async () => {
    for (let time = 0; time < 3; time += 1) expect(await permissionsOf('a', '1')).toEqual(['version:1']);
    tell({ kind: 'user', tenantId: 'a', userId: '2' });
    expect(standings.peekUser('a', '1')).toBeDefined();
    tell({ kind: 'user', tenantId: 'a', userId: '1' });
    expect(standings.peekUser('a', '1')).toBeUndefined();
    expect(await permissionsOf('a', '1')).toEqual(['version:2']);
  });

  it('is read again after each change of a role of its tenant, and then still receives its own changes', async () => {
    for (let change = 1; change <= 3; change += 1) {
      await permissionsOf('a', '1');
      tell({ kind: 'roles', tenantId: 'a' });
      expect(standings.peekUser('a', '1')).toBeUndefined();
    }
    expect(await permissionsOf('a', '1')).toEqual(['version:4']);
    tell({ kind: 'user', tenantId: 'a', userId: '1' });
    expect(standings.peekUser('a', '1')).toBeUndefined();
  });

  it('stays cached while the roles of another tenant change', async () => {
    await permissionsOf('a', '1');
    for (let change = 0; change < 100; change += 1) tell({ kind: 'roles', tenantId: 'b' });
    expect(standings.peekUser('a', '1')).toBeDefined();
  });

  it('is not cached if a role changed while it was being read', async () => {
    meanwhile = () => {
      tell({ kind: 'roles', tenantId: 'a' });
    };
    await permissionsOf('a', '1');
    expect(standings.peekUser('a', '1')).toBeUndefined();
  });

  it('never comes back as it was before a change, however many tenants change their roles', async () => {
    await permissionsOf('a', '1');
    tell({ kind: 'roles', tenantId: 'a' });
    await permissionsOf('a', '1');
    // The number of remembered changes is bounded, and some are discarded here.
    for (let tenant = 0; tenant < 25_000; tenant += 1) {
      tell({ kind: 'roles', tenantId: `t${tenant}` });
      expect(standings.peekUser('a', '1')?.permissions).not.toEqual(['version:1']);
    }
    expect(standings.peekUser('a', '1')).toBeUndefined();
    tell({ kind: 'any' });
    expect(await permissionsOf('a', '1')).toEqual(['version:3']);
    expect(asked).toEqual(['a 1', 'a 1', 'a 1']);
  });
});

describe('users of one tenant that are read again together', () => {
  /** The time that the cache sees. */
  let now: number;

  beforeEach(async () => {
    now = 100_000;
    vi.spyOn(performance, 'now').mockImplementation(() => now);
    for (const id of ['1', '2', '3']) await permissionsOf('a', id);
    await permissionsOf('b', '1');
    for (const id of ['1', '2', '3']) standings.peekUser('a', id);
    asked = [];
    now += 31_000;
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });

  it('cost one question, and are then all fresh', async () => {
    expect(await permissionsOf('a', '2')).toEqual(['version:1']);
    expect(asked).toEqual(['a 2 1 3']);
    expect(together).toContain('a');
    for (const id of ['1', '2', '3']) expect(standings.peekUser('a', id)?.permissions).toEqual(['version:1']);
    expect(standings.peekUser('b', '1')).toBeUndefined();
  });

  it('are read with something else that the database is asked for, if they will soon be needed', async () => {
    standings.readAhead('a');
    standings.readAhead('a');
    await new Promise((resolve) => setImmediate(resolve));
    expect(asked).toEqual(['a 1 2 3']);
    standings.readAhead('a');
    await new Promise((resolve) => setImmediate(resolve));
    expect(asked).toEqual(['a 1 2 3']);
  });

  it.each<[string, Change, string[]]>([
    ['of the user that changed', { kind: 'user', tenantId: 'a', userId: '3' }, ['3']],
    ['of the user that was asked for', { kind: 'user', tenantId: 'a', userId: '2' }, ['2']],
    ['of all users, if a role changed', { kind: 'roles', tenantId: 'a' }, ['1', '2', '3']],
    ['of all users, if anything may have changed', { kind: 'any' }, ['1', '2', '3']],
  ])('are not cached if a change comes meanwhile: those %s', async (_, change, gone) => {
    meanwhile = () => {
      now += 1;
      tell(change);
      meanwhile = () => undefined;
    };
    await permissionsOf('a', '2');
    expect(['1', '2', '3'].filter((id) => !standings.peekUser('a', id))).toEqual(gone);
    // Those are read again, and then cached.
    for (const id of gone) await permissionsOf('a', id);
    expect(['1', '2', '3'].filter((id) => !standings.peekUser('a', id))).toEqual([]);
  });

  it('are read under the generation of their tenant only', async () => {
    tell({ kind: 'roles', tenantId: 'a' });
    await permissionsOf('a', '1');
    expect(asked).toEqual(['a 1']);
  });
});

// The cached standing of users: a change of a role makes the users of its tenant be read again, and no others.
import { DummyDriver, Kysely, PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely';
import { beforeEach, describe, expect, it } from 'vitest';
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
/** Called while a row is being read. */
let meanwhile: () => void;

beforeEach(() => {
  asked = [];
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
  standings = createStandings(new Kysely<Registry>({ dialect }), events, (tenantId) => {
    const db = new Kysely<TenantDatabase>({ dialect });
    const read = <Row>(_text: string, values: readonly unknown[]): Promise<Row[]> => {
      asked.push(`${tenantId} ${String(values[0])}`);
      meanwhile();
      return Promise.resolve([{ active: true, permissions: [`version:${asked.length}`] }] as Row[]);
    };
    setRunner(db, { read, run: read });
    return db;
  });
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

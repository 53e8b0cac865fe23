// The history of migrations: what a build refuses, and how migrations are sealed.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { compareHistory, type DoneMigration } from '../../db/shared/migration-history.js';
import type { Migrations } from '../../db/shared/migration-types.js';
import { sealed } from '../../db/shared/sealed-migrations.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { schemaIs, SERVED_SCHEMAS } from '../../db/tenant/served-schemas.js';
import { brokenSeals, hashesFile, hashesIn, MIGRATION_FOLDERS, sealedIn } from '../support/migration-hashes.js';

const up = (): Promise<void> => Promise.resolve();

const build: Migrations = sealed(
  { '0001_a': { up }, '0002_b': { up }, '0003_c': { up } },
  { '0001_a': 'aa', '0002_b': 'bb', '0003_c': 'cc' },
);

const ran = (...names: string[]): DoneMigration[] =>
  names.map((name) => ({ name, hash: build[name]?.hash ?? 'unknown' }));

describe('the history of a database', () => {
  it.each([
    ['equal', ran('0001_a', '0002_b', '0003_c'), [], []],
    ['equal, recorded in another order', ran('0003_c', '0001_a', '0002_b'), [], []],
    ['behind', ran('0001_a'), ['0002_b', '0003_c'], []],
    ['behind, as an empty database', [], ['0001_a', '0002_b', '0003_c'], []],
    ['newer', ran('0001_a', '0002_b', '0003_c', '0004_d'), [], ['0004_d']],
  ] as const)('is %s', (name, done, pending, newer) => {
    const state = name.split(',')[0];
    expect(compareHistory(done, build)).toEqual({ state, pending, newer, differences: [] });
  });

  it('is too new if a migration that this build does not know needs a newer build', () => {
    const later = (needs: string | null): DoneMigration[] => [
      ...ran('0001_a', '0002_b', '0003_c'),
      { name: '0004_d', hash: 'dd', needs },
      { name: '0005_e', hash: 'ee', needs: null },
    ];
    expect(compareHistory(later('0004_d'), build)).toMatchObject({
      state: 'too-new',
      needs: '0004_d',
      pending: [],
      newer: ['0004_d', '0005_e'],
    });
    for (const needs of ['0003_c', '0001_a', null])
      expect(compareHistory(later(needs), build)).toMatchObject({ state: 'newer', needs: undefined });
  });

  it('agrees if a former build recorded no hashes', () => {
    const done = ran('0001_a', '0002_b').map(({ name }) => ({ name, hash: null }));
    expect(compareHistory(done, build)).toMatchObject({ state: 'behind', pending: ['0003_c'] });
  });

  it.each([
    [
      'a migration was merged after a later one had run',
      ran('0001_a', '0003_c'),
      ['It has run 0003_c, but not 0002_b, which comes before.'],
    ],
    [
      'a newer build has run, and one of this build has not',
      ran('0001_a', '0002_b', '0004_d'),
      ['It has run 0004_d, but not 0003_c, which comes before.'],
    ],
    [
      'a migration has another content',
      [...ran('0001_a'), { name: '0002_b', hash: 'xx' }],
      ['It has run another migration under the name 0002_b.'],
    ],
    [
      'it has run a migration that this build lost',
      ran('0001_a', '0002_b', '0002_x', '0003_c'),
      ['It has run 0002_x, which this build does not have.'],
    ],
  ])('differs if %s', (_, done, differences) => {
    expect(compareHistory(done, build)).toMatchObject({ state: 'differs', differences });
  });
});

describe('the schema of a tenant’s database', () => {
  const { oldest, newest } = SERVED_SCHEMAS;

  it('may be any from the oldest to the newest of this build’s migrations', () => {
    expect(Object.keys(tenantMigrations)).toContain(oldest);
    expect(Object.keys(tenantMigrations).at(-1)).toBe(newest);
  });

  it.each([
    [undefined, undefined, 'too-old'],
    ['0001_identity', undefined, 'too-old'],
    ['0001_identity', '0001_identity', 'too-old'],
    [oldest, undefined, 'served'],
    [newest, newest, 'served'],
    ['9999_newer', undefined, 'served'],
    ['9999_newer', newest, 'served'],
    ['9999_newer', '9999_newer', 'too-new'],
    ['9999_newer', '9998_newer', 'too-new'],
  ])('at %s, which needs %s, is %s', (name, needs, verdict) => {
    expect(schemaIs({ name, needs })).toBe(verdict);
  });
});

describe('the seals of migrations', () => {
  it.each(Object.entries(MIGRATION_FOLDERS))('%s: each migration is as it was sealed', async (folder, file) => {
    const text = await readFile(path.join(folder, file), 'utf8');
    const now = await hashesIn(folder);
    expect(brokenSeals(sealedIn(text), now)).toEqual([]);
    // Run `npm run migrations:seal` after adding a migration.
    expect(text).toBe(hashesFile(now));
  });

  it('refuses a build with a migration that is not sealed, or is gone', () => {
    expect(() => sealed({ '0001_a': { up }, '0002_b': { up } }, { '0001_a': 'aa' })).toThrow('0002_b is not sealed');
    expect(() => sealed({ '0001_a': { up } }, { '0001_a': 'aa', '0002_b': 'bb' })).toThrow('0002_b is not sealed');
  });

  it('refuses a build with a migration that needs one that is not there, or that comes later', () => {
    const hashes = { '0001_a': 'aa', '0002_b': 'bb' };
    const needing = (needs: string): Migrations => sealed({ '0001_a': { up, needs }, '0002_b': { up } }, hashes);
    expect(needing('0001_a')['0001_a']?.needs).toBe('0001_a');
    expect(() => needing('0001_x')).toThrow('0001_a needs 0001_x');
    expect(() => needing('0002_b')).toThrow('0001_a needs 0002_b');
  });

  it('refuses to seal a changed, a missing, or an inserted migration', () => {
    const before = { '0001_a': 'aa', '0003_c': 'cc' };
    expect(brokenSeals(before, { ...before, '0004_d': 'dd' })).toEqual([]);
    expect(brokenSeals(before, { ...before, '0001_a': 'xx' })).toEqual([
      '0001_a has changed since it was sealed. Write another migration instead.',
    ]);
    expect(brokenSeals(before, { '0003_c': 'cc' })).toEqual(['0001_a is sealed, and its file is gone.']);
    expect(brokenSeals(before, { ...before, '0002_b': 'bb' })).toEqual([
      '0002_b comes before 0003_c, which is sealed. Renumber it.',
    ]);
  });
});

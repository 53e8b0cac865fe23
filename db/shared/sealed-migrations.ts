// Migrations with their content hashes.
import type { Migration, Migrations } from './migration-types.js';

/** SHA-256 of each migration's source file, in hex, by the migration's name. `npm run migrations:seal` writes it. */
export type MigrationHashes = Readonly<Record<string, string>>;

/** @throws Error if a migration has no hash, a hash has no migration, or `needs` names no migration up to its own */
export function sealed(migrations: Readonly<Record<string, Migration>>, hashes: MigrationHashes): Migrations {
  const names = new Set([...Object.keys(migrations), ...Object.keys(hashes)]);
  return Object.fromEntries(
    [...names].sort().map((name) => {
      const migration = migrations[name];
      const hash = hashes[name];
      if (!migration || hash === undefined)
        throw new Error(`The migration ${name} is not sealed, or is missing. Run: npm run migrations:seal`);
      const { needs } = migration;
      if (needs !== undefined && (!migrations[needs] || needs > name))
        throw new Error(`The migration ${name} needs ${needs}, which is neither itself nor an earlier migration`);
      return [name, { ...migration, hash }];
    }),
  );
}

// The content hashes of migrations, from their source files.
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import type { MigrationHashes } from '../../db/shared/sealed-migrations.js';

/** The folders of migrations, and the files with their hashes, from the root of the source. */
export const MIGRATION_FOLDERS = {
  'db/registry/migrations': 'registry-hashes.ts',
  'db/tenant/migrations': 'tenant-hashes.ts',
} as const;

/** SHA-256 of each migration's file in a folder, by the migration's name. */
export async function hashesIn(folder: string): Promise<MigrationHashes> {
  const files = (await readdir(folder)).filter((file) => /^\d{4}_\w+\.ts$/.test(file)).sort();
  const entries = files.map(async (file) => {
    const text = await readFile(path.join(folder, file), 'utf8');
    return [path.basename(file, '.ts'), createHash('sha256').update(text).digest('hex')] as const;
  });
  return Object.fromEntries(await Promise.all(entries));
}

/** The text of a folder's file of hashes. */
export function hashesFile(hashes: MigrationHashes): string {
  const lines = Object.entries(hashes).map(([name, hash]) => `  '${name}': '${hash}',`);
  return [
    '// SHA-256 of each migration. Written by `npm run migrations:seal`: do not edit. A migration that has run anywhere never changes.',
    "import type { MigrationHashes } from '../../shared/sealed-migrations.js';",
    '',
    'export const hashes: MigrationHashes = {',
    ...lines,
    '};',
    '',
  ].join('\n');
}

/** The hashes in the text of such a file. */
export function sealedIn(text: string): MigrationHashes {
  const found = [...text.matchAll(/'(?<name>\w+)': *'(?<hash>[0-9a-f]{64})'/g)];
  return Object.fromEntries(found.map(({ groups }) => [groups?.['name'] ?? '', groups?.['hash'] ?? '']));
}

/**
 * What may not happen to migrations that are sealed already.
 *
 * @returns sentences
 */
export function brokenSeals(sealed: MigrationHashes, now: MigrationHashes): readonly string[] {
  const last = Object.keys(sealed).sort().at(-1) ?? '';
  return [
    ...Object.entries(sealed).flatMap(([name, hash]) => {
      if (now[name] === undefined) return [`${name} is sealed, and its file is gone.`];
      return now[name] === hash ? [] : [`${name} has changed since it was sealed. Write another migration instead.`];
    }),
    ...Object.keys(now).flatMap((name) =>
      sealed[name] === undefined && name < last ? [`${name} comes before ${last}, which is sealed. Renumber it.`] : [],
    ),
  ];
}

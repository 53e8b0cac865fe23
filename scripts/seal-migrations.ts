// `npm run migrations:seal`: records the content of new migrations.
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { brokenSeals, hashesFile, hashesIn, MIGRATION_FOLDERS, sealedIn } from '../tests/support/migration-hashes.js';
import { exitCodes, say } from './command.js';

const sealMigrations = defineCommand({
  start: 'npm run migrations:seal --',
  about: `
Records the content of new migrations in the files registry-hashes.ts and tenant-hashes.ts beside them. A database in which
another migration ran under the same name is then refused. What is recorded already never changes: the migration may have
run in another installation.
To change a migration that has run nowhere, remove its line there first.`,
  flags: {},
  exits: {
    0: 'recorded',
    1: 'not recorded: a recorded migration has changed, is gone, or would no longer be the last one',
  },
});

await runCommand(sealMigrations, async () => {
  for (const [folder, name] of Object.entries(MIGRATION_FOLDERS)) {
    const file = path.join(folder, name);
    const text = await readFile(file, 'utf8').catch(() => '');
    const sealed = sealedIn(text);
    const now = await hashesIn(folder);
    const broken = brokenSeals(sealed, now);
    if (broken.length > 0) {
      say(broken.join('\n'));
      return exitCodes.broken;
    }
    await writeFile(file, hashesFile(now));
    const [all, before] = [now, sealed].map((each) => Object.keys(each).length) as [number, number];
    say(`${file}: ${all} migrations, ${all - before} new`);
  }
  return exitCodes.kept;
});

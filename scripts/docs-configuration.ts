// `npm run docs:configuration`: writes the tables of variables in docs/reference/configuration.md.
import { readFile, writeFile } from 'node:fs/promises';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { CONFIGURATION_PAGE, configurationTables, withTables } from '../tests/support/configuration-page.js';

const docsConfiguration = defineCommand({
  start: 'npm run docs:configuration --',
  about: `
Writes the tables of variables in docs/reference/configuration.md from src/config/variables, where they are defined. The rest of the page stays
as it is.`,
  flags: {},
  exits: { 0: 'written', 1: 'not written: the page has not one pair of markers' },
});

await runCommand(docsConfiguration, async () => {
  await writeFile(CONFIGURATION_PAGE, withTables(await readFile(CONFIGURATION_PAGE, 'utf8'), configurationTables()));
  return 0;
});

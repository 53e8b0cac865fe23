// `npm run docs:reference`: writes docs/reference/openapi.json, docs/reference/errors.md and docs/reference/metrics.md.
import { writeFile } from 'node:fs/promises';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import {
  ERRORS_PAGE,
  errorsPage,
  METRICS_PAGE,
  metricsPage,
  OPENAPI_FILE,
  openApiReference,
  servedDocument,
} from '../tests/support/reference-pages.js';

const docsReference = defineCommand({
  start: 'npm run docs:reference --',
  about: `
Writes docs/reference/openapi.json from the routes, docs/reference/errors.md from the catalogue of coded errors, and
docs/reference/metrics.md from the definitions of the metrics. No database is needed.`,
  flags: {},
  exits: { 0: 'written', 1: 'not written: error answers have different schemas' },
});

await runCommand(docsReference, async () => {
  await writeFile(OPENAPI_FILE, await openApiReference(await servedDocument()));
  await writeFile(ERRORS_PAGE, errorsPage());
  await writeFile(METRICS_PAGE, metricsPage());
  return 0;
});

// `npm run docs:reference`: writes docs/reference/openapi.json, errors.md, metrics.md, log.md and doctor.md.
import { readFile, writeFile } from 'node:fs/promises';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { LOG_PAGE, logPage } from '../tests/support/log-page.js';
import { breakingChanges, type ComparedDocument } from '../tests/support/openapi-changes.js';
import {
  DOCTOR_PAGE,
  doctorPage,
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
Writes docs/reference/openapi.json from the routes, docs/reference/errors.md from the catalogue of coded errors,
docs/reference/metrics.md from the definitions of the metrics, docs/reference/log.md from the schema of the log, and
docs/reference/doctor.md from the codes of the doctor. Prints each change of the API that can break a client. No database is needed.`,
  flags: {},
  exits: { 0: 'written' },
});

await runCommand(docsReference, async () => {
  const served = await servedDocument();
  const before = JSON.parse(await readFile(OPENAPI_FILE, 'utf8')) as ComparedDocument;
  for (const change of breakingChanges(before, served)) process.stdout.write(`breaks clients: ${change}\n`);
  await writeFile(OPENAPI_FILE, await openApiReference(served));
  await writeFile(ERRORS_PAGE, errorsPage());
  await writeFile(METRICS_PAGE, metricsPage());
  await writeFile(LOG_PAGE, logPage());
  await writeFile(DOCTOR_PAGE, doctorPage());
  return 0;
});

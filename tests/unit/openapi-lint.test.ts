// docs/reference/openapi.json has no fault that @redocly/cli finds, by the rules of redocly.yaml.
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { OPENAPI_FILE } from '../support/reference-pages.js';

const ROOT = path.resolve(import.meta.dirname, '../..');
const LINTER = path.join(ROOT, 'node_modules/@redocly/cli/bin/cli.js');

interface Findings {
  readonly totals: { readonly errors: number; readonly warnings: number };
  readonly problems: readonly { readonly ruleId: string; readonly message: string }[];
}

/** Lints the document of a folder by the folder's redocly.yaml. It sends nothing to anybody. */
async function lint(folder: string): Promise<Findings> {
  const env = { PATH: process.env['PATH'], REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true' };
  const output = await new Promise<string>((resolve) => {
    execFile(process.execPath, [LINTER, 'lint', '--format=json'], { cwd: folder, env }, (_error, stdout) => {
      resolve(stdout);
    });
  });
  return JSON.parse(output.slice(output.indexOf('{'))) as Findings;
}

it('has no error and no warning', async () => {
  const { totals, problems } = await lint(ROOT);
  expect(problems.map(({ ruleId, message }) => `${ruleId}: ${message}`)).toEqual([]);
  expect(totals).toMatchObject({ errors: 0, warnings: 0 });
});

it('would be refused for an operation without a name, and for an error that is no problem document', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-lint-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  await cp(path.join(ROOT, 'redocly.yaml'), path.join(folder, 'redocly.yaml'));
  const target = path.join(folder, path.relative(ROOT, OPENAPI_FILE));
  await mkdir(path.dirname(target), { recursive: true });
  const text = await readFile(OPENAPI_FILE, 'utf8');
  await writeFile(
    target,
    text.replace('"operationId": "listProducts",', '').replace('"application/problem+json"', '"application/json"'),
  );
  const { problems } = await lint(folder);
  expect(problems.map(({ ruleId }) => ruleId)).toEqual(
    expect.arrayContaining(['operation-operationId', 'operation-4xx-problem-details-rfc7807']),
  );
});

// docs/reference agrees with the code.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { beforeAll, describe, expect, it } from 'vitest';
import { LOG_PAGE, logPage } from '../support/log-page.js';
import { breakingChanges } from '../support/openapi-changes.js';
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
  type OpenApiDocument,
} from '../support/reference-pages.js';
import { metricDefinitions } from '../../src/engine/metrics/index.js';
import { doctorCodes } from '../../src/doctor/doctor-codes.js';
import { errorGuide } from '../../src/http/error-guide.js';
import { catalogue, type ErrorCode } from '../../src/errors.js';

const ROOT = path.resolve(import.meta.dirname, '../..');
const WRITTEN_BY = 'npm run docs:reference writes it';
const codes = Object.keys(catalogue) as ErrorCode[];

describe('docs/reference/openapi.json', () => {
  let served: OpenApiDocument;
  let reference: string;
  beforeAll(async () => {
    served = await servedDocument();
    reference = await openApiReference(served);
  });

  it(`is the document that the service serves; ${WRITTEN_BY}`, () => {
    expect(readFileSync(OPENAPI_FILE, 'utf8')).toBe(reference);
  });

  it('names its generator', () => {
    expect(JSON.parse(reference)).toMatchObject({ 'x-generated-by': 'scripts/docs-reference.ts' });
    expect(served).not.toHaveProperty('x-generated-by');
  });

  it('breaks no client of the last version; npm run docs:reference accepts the changes', () => {
    const committed = JSON.parse(readFileSync(OPENAPI_FILE, 'utf8')) as OpenApiDocument;
    expect(breakingChanges(committed, served)).toEqual([]);
  });

  it('has its paths in alphabetical order', () => {
    const paths = Object.keys((JSON.parse(reference) as OpenApiDocument).paths);
    expect(paths).toEqual(paths.toSorted());
  });

  it('depends on no machine, address or setting of a run', async () => {
    const other = await servedDocument({
      HOST: '0.0.0.0',
      PORT: '4321',
      HASH_CONCURRENCY: '1',
      RATE_LIMIT_MAX: '7',
      TENANT_PRODUCTS: '5',
    });
    expect(await openApiReference(other)).toBe(reference);
  });
});

describe('docs/reference/errors.md', () => {
  const page = errorsPage();

  it(`is what the catalogue says; ${WRITTEN_BY}`, () => {
    expect(readFileSync(ERRORS_PAGE, 'utf8')).toBe(page);
  });

  it('names its generator', () => {
    expect(page).toContain('<!-- Written by scripts/docs-reference.ts');
  });

  it('has a line and a section for every code', () => {
    const lines = page.split('\n');
    for (const code of codes) {
      expect(lines.filter((line) => line.startsWith(`| [\`${code}\`](#${code}) |`))).toHaveLength(1);
      expect(lines.filter((line) => line === `## ${code}`)).toHaveLength(1);
    }
  });
});

describe('docs/reference/metrics.md', () => {
  const page = metricsPage();

  it(`is what the definitions say; ${WRITTEN_BY}`, () => {
    expect(readFileSync(METRICS_PAGE, 'utf8')).toBe(page);
  });

  it('has a section for every metric, with its unit and its reason', () => {
    const sections = page.split('\n## ').slice(1);
    expect(sections.map((text) => text.split('\n')[0])).toEqual(metricDefinitions.map(({ name }) => name));
    for (const text of sections) {
      expect(text).toMatch(/\n- Unit: \S/);
      expect(text).toMatch(/\n- Reason: [A-Z].*[.]\n/);
    }
  });
});

describe('the definitions of metrics', () => {
  it.each(metricDefinitions)('$name: named as Prometheus asks, explained in sentences, with few labels', (metric) => {
    const { name, kind, labels, help, reason, values, buckets } = metric;
    expect(name).toMatch(/^tenantry_[a-z]+(?:_[a-z]+)*$/);
    expect(name.endsWith('_total')).toBe(kind === 'counter');
    expect(buckets !== undefined).toBe(kind === 'histogram');
    for (const text of [help, reason]) expect(text).toMatch(/^(?:[A-Z0-9]).*[.]$/);
    for (const label of Object.keys(values ?? {})) expect(labels).toContain(label);
    // A label with a value for each address, account or path would make more series than a server can hold.
    const allowed = ['cluster', 'kind', 'state', 'scope', 'pool', 'job', 'outcome', 'reason', 'realm', 'act', 'source'];
    const rest = ['method', 'route', 'status', 'code', 'limit', 'tenant', 'version', 'node', 'event', 'level'];
    for (const label of labels) expect([...allowed, ...rest]).toContain(label);
  });

  it('have names that no other has', () => {
    const names = metricDefinitions.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
  });
});

it(`docs/reference/log.md is what the schema of the log and the catalogue of events say; ${WRITTEN_BY}`, () => {
  expect(readFileSync(LOG_PAGE, 'utf8')).toBe(logPage());
  expect(logPage()).toContain('<!-- Written by scripts/docs-reference.ts');
});

it(`docs/reference/doctor.md is what the codes of the doctor say; ${WRITTEN_BY}`, () => {
  expect(readFileSync(DOCTOR_PAGE, 'utf8')).toBe(doctorPage());
});

it.each(Object.entries(doctorCodes))('the code %s of the doctor is explained in sentences', (code, entry) => {
  expect(code).toMatch(/^[a-z]+(?:-[a-z]+)*$/);
  for (const text of [entry.about, entry.todo]) expect(text).toMatch(/^[A-Z].*\.$/);
  expect(entry.mends ?? 'a part of a sentence').toMatch(/^[a-z].*[^.]$/);
});

describe('the guide to errors', () => {
  it.each(codes)('says in sentences when %s happens, and what the client can do', (code) => {
    const { when, remedy } = errorGuide[code];
    for (const text of [when, remedy]) expect(text).toMatch(/^(?:[A-Z]|`).*\.$/);
  });

  it('is right about which errors have Retry-After', () => {
    const found = new Map<string, Set<'with' | 'without'>>();
    for (const { code, retryAfter } of errorsThatAreMade())
      found.set(code, new Set([...(found.get(code) ?? []), ...retryAfter]));
    expect(found.size).toBeGreaterThan(30);
    for (const code of codes) {
      const made = found.get(code);
      const expected = made?.has('with') ? (made.has('without') ? 'sometimes' : 'always') : undefined;
      expect([code, errorGuide[code].retryAfter]).toEqual([code, expected]);
    }
  });
});

interface MadeError {
  readonly code: string;
  readonly retryAfter: readonly ('with' | 'without')[];
}

/** Every error that the code makes with a literal code: `new AppError('…', …)`, or `super('…', …)` in a class of such errors. */
function errorsThatAreMade(): MadeError[] {
  const made: MadeError[] = [];
  const visit = (node: ts.Node): void => {
    ts.forEachChild(node, visit);
    const isError = ts.isNewExpression(node) && node.expression.getText() === 'AppError';
    const isSuper = ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.SuperKeyword;
    if (!isError && !isSuper) return;
    const [first, options] = node.arguments ?? [];
    const given = options?.getText() ?? '';
    // `...(retryAfter !== undefined && { retryAfter })`
    const both = given.includes('retryAfter !== undefined');
    const retryAfter = both
      ? (['with', 'without'] as const)
      : ([given.includes('retryAfter') ? 'with' : 'without'] as const);
    for (const [, code = ''] of (first?.getText() ?? '').matchAll(/'([a-z-]+)'/g))
      if (code in catalogue) made.push({ code, retryAfter });
  };
  for (const folder of ['src', 'plugins', 'routes'])
    for (const name of readdirSync(path.join(ROOT, folder), { recursive: true, encoding: 'utf8' })) {
      if (!name.endsWith('.ts')) continue;
      const text = readFileSync(path.join(ROOT, folder, name), 'utf8');
      visit(ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true));
    }
  return made;
}

// docs/guide/security.md: each promise on the page names the test that tries it, and that test exists.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '../..');
const page = readFileSync(path.join(ROOT, 'docs/guide/security.md'), 'utf8');

/** The cells of every row of the page's tables, without heads and rules. */
function rowsOf(markdown: string): string[][] {
  const lines = markdown.split('\n');
  return lines
    .filter(
      (line, index) => line.startsWith('| ') && !line.startsWith('| ---') && !lines[index + 1]?.startsWith('| ---'),
    )
    .map((line) =>
      line
        .split(/(?<!\\)\|/)
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}

interface Reference {
  readonly file: string;
  readonly title: string;
}

function referenceIn(cell = ''): Reference | undefined {
  const [, file, title] = /^`(tests\/[\w/-]+\.test\.ts)`: (.+)$/.exec(cell) ?? [];
  return file === undefined || title === undefined ? undefined : { file, title };
}

/** The titles of all tests and groups in a file, as they are written there. */
function titlesIn(text: string): string[] {
  const titles: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node) && /^(?:it|describe)\b/.test(node.expression.getText())) {
      const [title] = node.arguments;
      if (title && ts.isStringLiteralLike(title)) titles.push(title.getText().slice(1, -1));
    }
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile('a.test.ts', text, ts.ScriptTarget.Latest, true));
  return titles;
}

/** By file: most are named by many rows, and take long to read. */
const known = new Map<string, string[]>();
function titlesOf(file: string): string[] {
  const titles = known.get(file) ?? titlesIn(readFileSync(path.join(ROOT, file), 'utf8'));
  known.set(file, titles);
  return titles;
}

const rows = rowsOf(page);

describe('the page on hostile input', () => {
  it('names in each row the input, the answer and the test', () => {
    expect(rows.length).toBeGreaterThan(40);
    for (const row of rows) {
      expect(row, row.join(' | ')).toHaveLength(3);
      for (const cell of row) expect(cell, row.join(' | ')).not.toBe('');
      expect(referenceIn(row[2]), `no test in: ${row.join(' | ')}`).toBeDefined();
    }
  });

  const references = rows.flatMap((row) => referenceIn(row[2]) ?? []);
  it.each(references)('names a test that exists: $file, $title', ({ file, title }) => {
    expect(existsSync(path.join(ROOT, file)), file).toBe(true);
    expect(titlesOf(file)).toContain(title);
  });

  it('names every file of tests/security', () => {
    const named = new Set(references.map(({ file }) => file));
    const files = readdirSync(path.join(ROOT, 'tests/security')).filter((name) => name.endsWith('.test.ts'));
    expect(files.length).toBeGreaterThan(0);
    for (const file of files) expect(named).toContain(`tests/security/${file}`);
  });
});

it('titles of tests and groups are found, but not in a comment or another string', () => {
  const text = `// it('a comment')
    describe.each([])('a group', () => { it('a test', () => { expect('a text').toBe('another'); }); });
    it.runIf(true)('a test on a condition', () => undefined);`;
  expect(titlesIn(text)).toEqual(['a group', 'a test', 'a test on a condition']);
});

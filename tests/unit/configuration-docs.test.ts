// docs/reference/configuration.md and the example of docs/guide/start.md agree with the code.
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { makeTokenKey } from '../../src/auth/keyring.js';
import { readSettings, variableGroups, variables } from '../../src/config/index.js';
import { selfSigned } from '../support/certificate.js';
import { CONFIGURATION_PAGE, configurationTables, withLinks, withTables } from '../support/configuration-page.js';

const page = readFileSync(CONFIGURATION_PAGE, 'utf8');
const start = readFileSync(path.resolve(import.meta.dirname, '../../docs/guide/start.md'), 'utf8');

describe('the page on configuration', () => {
  it('has the tables that the code generates; npm run docs:configuration writes them', () => {
    expect(page).toBe(withTables(page, configurationTables()));
  });

  it('has an example that production accepts', () => {
    const [, example = ''] = /<<END\n([\s\S]*?)\nEND/.exec(start) ?? [];
    const folder = mkdtempSync(path.join(tmpdir(), 'tenantry-ca-'));
    onTestFinished(() => {
      rmSync(folder, { recursive: true });
    });
    const ca = path.join(folder, 'ca.pem');
    writeFileSync(ca, selfSigned('db.internal').certificate);
    const entries = example.split('\n').map((line) => {
      const [name = '', ...value] = line.split('=');
      // The values that the shell would insert.
      const text = value
        .join('=')
        .replace(/\$\(openssl rand -(base64|hex) (\d+)\)/, (_, encoding: 'base64' | 'hex', bytes) =>
          randomBytes(Number(bytes)).toString(encoding),
        )
        .replace(/k1:\$\(openssl genpkey .*\)/, makeTokenKey('k1'));
      return [name, name === 'DATABASE_CA_FILE' ? ca : text] as const;
    });
    for (const [name] of entries) expect(Object.keys(variables)).toContain(name);
    const settings = readSettings(Object.fromEntries(entries));
    expect(settings.production).toBe(true);
    expect(settings.firstOperator?.password).toHaveLength(24);
  });
});

describe('the tables', () => {
  const lines = configurationTables().split('\n');
  const rows = lines.filter((line) => line.startsWith('|'));

  it('have one line for every variable, in the order of the code', () => {
    const names = rows
      .map((line) => line.split('|')[1]?.trim())
      .filter((cell) => cell !== 'Variable' && cell !== '---');
    expect(names).toEqual(Object.keys(variables).map((name) => `\`${name}\``));
  });

  it('have a heading for each subject, and contain only their lines', () => {
    const others = lines.filter((line) => !line.startsWith('|') && line !== '');
    expect(others).toEqual(variableGroups.map(({ subject }) => `### ${subject}`));
    expect(new Set(others).size).toBe(others.length);
  });

  it('have four columns in every line, with a meaning in the last', () => {
    for (const line of rows) {
      const cells = line.split(/(?<!\\)\|/).slice(1, -1);
      expect(cells, line).toHaveLength(4);
      expect(cells[3]?.trim(), line).not.toBe('');
    }
  });

  it('are the same on every machine: a default that depends on the machine is written as a rule', () => {
    expect(lines.find((line) => line.includes('`HASH_CONCURRENCY`'))).toContain('| the number of cores, at most 2 |');
    expect(lines.find((line) => line.includes('`SHUTDOWN_DRAIN_MS`'))).toContain('| 5000 in production, otherwise 0 |');
  });

  it('link to the place of a page that a description names by its file name', () => {
    expect(withLinks('See [keys.md](keys.md#make-a-key) and [limits.md](limits.md).')).toBe(
      'See [keys](../guide/keys.md#make-a-key) and [limits](limits.md).',
    );
    expect(() => withLinks('[no-such.md](no-such.md)')).toThrow('not one page of docs/ is named no-such.md');
  });

  it('are placed between their markers, and only if the page has exactly one pair', () => {
    const [before = '', after = ''] = withTables(page, '\0').split('\0');
    expect(withTables(page, 'NEW')).toBe(`${before}NEW${after}`);
    expect(withTables(page, 'NEW')).not.toContain('| `PORT` |');
    for (const broken of ['', before, after, page + page])
      expect(() => withTables(broken, 'NEW')).toThrow('the page needs one');
  });
});

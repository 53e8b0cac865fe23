// docs/reference/configuration.md and the example of docs/guide/start.md: what operators read is what the code does.
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { CONFIGURATION_PAGE, configurationTable, withLinks, withTable } from '../../scripts/docs-configuration.js';
import { makeTokenKey } from '../../src/auth/keyring.js';
import { readSettings, variables } from '../../src/config.js';
import { selfSigned } from '../support/certificate.js';

const page = readFileSync(CONFIGURATION_PAGE, 'utf8');
const start = readFileSync(path.resolve(import.meta.dirname, '../../docs/guide/start.md'), 'utf8');

describe('the page on configuration', () => {
  it('has the table that the code gives; npx tsx scripts/docs-configuration.ts writes it', () => {
    expect(page).toBe(withTable(page, configurationTable()));
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
      // What the shell would put there.
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

describe('the table', () => {
  const lines = configurationTable().split('\n');

  it('has one line for every variable, in the order of the code', () => {
    expect(lines.slice(2).map((line) => line.split('|')[1]?.trim())).toEqual(
      Object.keys(variables).map((name) => `\`${name}\``),
    );
  });

  it('has four columns in every line, and a meaning in the last', () => {
    for (const line of lines) {
      const cells = line.split(/(?<!\\)\|/).slice(1, -1);
      expect(cells, line).toHaveLength(4);
      expect(cells[3]?.trim(), line).not.toBe('');
    }
  });

  it('is the same on every machine: a default that depends on one stands there as a rule', () => {
    expect(lines.find((line) => line.includes('`HASH_CONCURRENCY`'))).toContain('| the number of cores, at most 2 |');
    expect(lines.find((line) => line.includes('`SHUTDOWN_DRAIN_MS`'))).toContain('| 5000 in production, otherwise 0 |');
  });

  it('links to the place of a page that a description names by its file name', () => {
    expect(withLinks('See [keys.md](keys.md#make-a-key) and [limits.md](limits.md).')).toBe(
      'See [keys](../guide/keys.md#make-a-key) and [limits](limits.md).',
    );
    expect(() => withLinks('[no-such.md](no-such.md)')).toThrow('not one page of docs/ is named no-such.md');
  });

  it('goes between its markers, and nowhere where they are not one pair', () => {
    const [before = '', behind = ''] = withTable(page, '\0').split('\0');
    expect(withTable(page, 'NEW')).toBe(`${before}NEW${behind}`);
    expect(withTable(page, 'NEW')).not.toContain('| `PORT` |');
    for (const broken of ['', before, behind, page + page])
      expect(() => withTable(broken, 'NEW')).toThrow('the page needs one');
  });
});

// Writes the table of variables in docs/reference/configuration.md from src/config.ts, where they are defined.
// Usage: npx tsx scripts/docs-configuration.ts
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { variables, type Variable } from '../src/config.js';
import { fileVariableOf } from '../src/secret-files.js';

/** The page that the table stands on. */
export const CONFIGURATION_PAGE = path.resolve(import.meta.dirname, '../docs/reference/configuration.md');

const BEGIN = '<!-- variables: written by scripts/docs-configuration.ts -->';
const END = '<!-- end of variables -->';

/** Every variable, in the order of the code, as a table in Markdown. */
export function configurationTable(): string {
  const rows = Object.entries<Variable>(variables).map(([name, { default: given, unit, description, secret }]) => [
    `\`${name}\``,
    defaultCell(given),
    secret ? `${unit}; a file by \`${fileVariableOf(name)}\`` : unit,
    description,
  ]);
  return [['Variable', 'Default', 'Unit', 'Meaning'], Array<string>(4).fill('---'), ...rows].map(row).join('\n');
}

/**
 * The page with the table between its markers.
 *
 * @throws Error where the page has not exactly one pair of them
 */
export function withTable(page: string, table: string): string {
  const [before, middle, ...more] = page.split(BEGIN);
  const [, behind, ...rest] = (middle ?? '').split(END);
  if (before === undefined || behind === undefined || more.length > 0 || rest.length > 0)
    throw new Error(`the page needs one "${BEGIN}" and one "${END}" behind it`);
  return `${before}${BEGIN}\n\n${table}\n\n${END}${behind}`;
}

function defaultCell(given: Variable['default']): string {
  if (typeof given !== 'string') return given.rule;
  return given === '' ? '' : `\`${given}\``;
}

function row(cells: readonly string[]): string {
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}

if (process.argv[1] === import.meta.filename) {
  await writeFile(CONFIGURATION_PAGE, withTable(await readFile(CONFIGURATION_PAGE, 'utf8'), configurationTable()));
}

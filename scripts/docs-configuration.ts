// Writes the table of variables in docs/reference/configuration.md from src/config.ts, where they are defined.
// Usage: npx tsx scripts/docs-configuration.ts
import { readdirSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { variables, type Variable } from '../src/config.js';
import { fileVariableOf } from '../src/secret-files.js';

const DOCS = path.resolve(import.meta.dirname, '../docs');

/** The page with the table. */
export const CONFIGURATION_PAGE = path.join(DOCS, 'reference/configuration.md');

const BEGIN = '<!-- variables: written by scripts/docs-configuration.ts -->';
const END = '<!-- end of variables -->';

/** Every variable, in the order of the code, as a table in Markdown. */
export function configurationTable(): string {
  const rows = Object.entries<Variable>(variables).map(([name, { default: given, unit, description, secret }]) => [
    `\`${name}\``,
    defaultCell(given),
    secret ? `${unit}; a file by \`${fileVariableOf(name)}\`` : unit,
    withLinks(description),
  ]);
  return [['Variable', 'Default', 'Unit', 'Meaning'], Array<string>(4).fill('---'), ...rows].map(row).join('\n');
}

/**
 * The page with the table between its markers.
 *
 * @throws Error if the page does not have exactly one pair of them
 */
export function withTable(page: string, table: string): string {
  const [before, middle, ...more] = page.split(BEGIN);
  const [, behind, ...rest] = (middle ?? '').split(END);
  if (before === undefined || behind === undefined || more.length > 0 || rest.length > 0)
    throw new Error(`the page needs one "${BEGIN}" and one "${END}" behind it`);
  return `${before}${BEGIN}\n\n${table}\n\n${END}${behind}`;
}

/**
 * A description links to a page by its file name, such as `[keys.md](keys.md#anchor)`. The table links to the page's place,
 * so that a page can move without a change of the code.
 *
 * @throws Error if no page, or more than one, has that name
 */
export function withLinks(description: string): string {
  return description.replaceAll(
    /\[([^\]]+)\]\(([\w-]+\.md)(#[\w-]+)?\)/g,
    (_, label: string, file: string, anchor = '') => {
      const [page, ...more] = pagesNamed(file);
      if (page === undefined || more.length > 0) throw new Error(`not one page of docs/ is named ${file}`);
      return `[${label.replace(/\.md$/, '')}](${path.relative(path.dirname(CONFIGURATION_PAGE), page)}${anchor})`;
    },
  );
}

function pagesNamed(file: string): string[] {
  return readdirSync(DOCS, { recursive: true, encoding: 'utf8' })
    .filter((each) => path.basename(each) === file)
    .map((each) => path.join(DOCS, each));
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

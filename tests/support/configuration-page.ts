// The tables of variables in docs/reference/configuration.md, from src/config/variables, where they are defined.
// `npm run docs:configuration` writes them, and a test compares.
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { fileVariableOf, variableGroups, type Variable, type VariableGroup } from '../../src/config/index.js';

const DOCS = path.resolve(import.meta.dirname, '../../docs');

/** The page that has the tables. */
export const CONFIGURATION_PAGE = path.join(DOCS, 'reference/configuration.md');

const BEGIN = '<!-- variables: written by scripts/docs-configuration.ts -->';
const END = '<!-- end of variables -->';

/** Every variable, in the order of the code: for each subject a heading and a table in Markdown. */
export function configurationTables(): string {
  return variableGroups.map(section).join('\n\n');
}

/**
 * The page with the tables between its markers.
 *
 * @throws Error if the page does not have exactly one pair of markers
 */
export function withTables(page: string, tables: string): string {
  const [before, middle, ...more] = page.split(BEGIN);
  const [, after, ...rest] = (middle ?? '').split(END);
  if (before === undefined || after === undefined || more.length > 0 || rest.length > 0)
    throw new Error(`the page needs one "${BEGIN}" and one "${END}" after it`);
  return `${before}${BEGIN}\n\n${tables}\n\n${END}${after}`;
}

function section({ subject, variables }: VariableGroup): string {
  const rows = Object.entries(variables).map(([name, { default: given, unit, description, secret }]) => [
    `\`${name}\``,
    defaultCell(given),
    secret ? `${unit}; a file by \`${fileVariableOf(name)}\`` : unit,
    withLinks(description),
  ]);
  const table = [['Variable', 'Default', 'Unit', 'Meaning'], Array<string>(4).fill('---'), ...rows].map(row).join('\n');
  return `### ${subject}\n\n${table}`;
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

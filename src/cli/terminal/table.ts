// Tables and lists of fields, for people.
import { cutTo, padTo, visible, widthOf } from './shown-text.js';

export type Cell = string | number | boolean | null | undefined;

export interface Column<Row> {
  readonly head: string;
  readonly of: (row: Row) => Cell;
}

/** No column becomes narrower. */
const NARROWEST = 8;

const GAP = '  ';

/**
 * A table with a line of heads. Numbers are on the right.
 *
 * @param width columns of the terminal: the widest columns are cut until the table fits; undefined cuts nothing
 */
export function tableOf<Row>(columns: readonly Column<Row>[], rows: readonly Row[], width?: number): string {
  const values = columns.map(({ of }) => rows.map(of));
  const texts = values.map((cells) => cells.map(textOf));
  const isNumber = values.map((cells) => cells.length > 0 && cells.every((cell) => typeof cell === 'number'));
  const widths = columns.map(({ head }, index) =>
    Math.max(widthOf(head), ...(texts[index] ?? []).map((text) => widthOf(text))),
  );
  if (width !== undefined) narrow(widths, width);
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, index) => padTo(cutTo(cell, widths[index] ?? 0), widths[index] ?? 0, isNumber[index]))
      .join(GAP)
      .trimEnd();
  const heads = columns.map(({ head }) => head);
  const lines = [heads, ...rows.map((_row, index) => texts.map((cells) => cells[index] ?? ''))];
  return `${lines.map(line).join('\n')}\n`;
}

/** One field a line, with its name. */
export function fieldsOf(fields: readonly (readonly [name: string, value: Cell])[]): string {
  const width = Math.max(...fields.map(([name]) => name.length));
  return fields.map(([name, value]) => `${`${name.padEnd(width)}${GAP}${textOf(value)}`.trimEnd()}\n`).join('');
}

/** A time of the registry in fewer characters: `2026-01-31 09:30:00Z`. */
export function shortTime(time: string | null): string | null {
  return time === null ? null : time.replace('T', ' ').replace(/\.\d+/, '');
}

function textOf(cell: Cell): string {
  if (cell === null || cell === undefined) return '-';
  if (typeof cell === 'boolean') return cell ? 'yes' : 'no';
  return visible(String(cell));
}

function narrow(widths: number[], width: number): void {
  const total = (): number => widths.reduce((sum, each) => sum + each, GAP.length * (widths.length - 1));
  while (total() > width) {
    const widest = Math.max(...widths);
    if (widest <= NARROWEST) return;
    widths[widths.indexOf(widest)] = widest - 1;
  }
}

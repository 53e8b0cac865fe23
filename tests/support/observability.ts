// The files of deploy/observability and the runbooks, and the queries in them.
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { parse } from 'yaml';
import { blocksOf, PAGES, readPage, ROOT } from './docs.js';

export const FOLDER = 'deploy/observability';
const RUNBOOKS = 'docs/guide/runbooks/';

export interface Alert {
  readonly alert: string;
  readonly expr: string;
  readonly for?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

export interface Target {
  readonly refId: string;
  readonly expr: string;
  readonly datasource: { readonly type: string; readonly uid: string };
}

export interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly datasource?: { readonly type: string; readonly uid: string };
  readonly targets?: readonly Target[];
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string } };
}

export interface Dashboard {
  /** The file. */
  readonly name: string;
  readonly uid: string;
  readonly title: string;
  readonly description: string;
  readonly schemaVersion: number;
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly { readonly name: string; readonly definition: string }[] };
}

export interface Query {
  /** The file, and what in it. */
  readonly where: string;
  readonly text: string;
}

export function readAlerts(): readonly Alert[] {
  const { groups } = parse(readPage(`${FOLDER}/alerts.yml`)) as { groups: readonly { rules: readonly Alert[] }[] };
  return groups.flatMap(({ rules }) => rules);
}

export function readDashboards(): readonly Dashboard[] {
  const folder = `${FOLDER}/dashboards`;
  return readdirSync(path.join(ROOT, folder))
    .toSorted()
    .map((name) => ({ ...(JSON.parse(readPage(`${folder}/${name}`)) as Omit<Dashboard, 'name'>), name }));
}

/** The pages of the alerts. */
export const runbooks: readonly string[] = PAGES.filter((page) => page.startsWith(RUNBOOKS));

/** The alert that a page is about. */
export const alertOf = (runbook: string): string => path.posix.basename(runbook, '.md');

const pages = [...runbooks, 'docs/guide/observability.md'];

/** The queries of a language on the pages, one a line. */
function onPages(language: string): readonly Query[] {
  return pages.flatMap((page) =>
    blocksOf(page)
      .filter((block) => block.language === language)
      .flatMap(({ text }) => text.split('\n').map((line) => ({ where: page, text: line }))),
  );
}

function inDashboards(type: string): readonly Query[] {
  return readDashboards().flatMap(({ name, panels }) =>
    panels.flatMap(({ title, targets = [] }) =>
      targets
        .filter(({ datasource }) => datasource.type === type)
        .map(({ expr }) => ({ where: `${name}: ${title}`, text: expr })),
    ),
  );
}

/** Every query of the panels to Prometheus. */
export const panelQueries = (): readonly Query[] => inDashboards('prometheus');

/** Every query to Prometheus: of the alerts, the panels and the pages. */
export function promQueries(): readonly Query[] {
  const alerts = readAlerts().map(({ alert, expr }) => ({ where: alert, text: expr }));
  return [...alerts, ...panelQueries(), ...onPages('promql')];
}

/** Every query to Loki. */
export const logQueries = (): readonly Query[] => [...inDashboards('loki'), ...onPages('logql')];

/** One use of a metric in a query, and the labels by which it selects, with the values that it wants, if it lists them. */
export interface Use {
  readonly metric: string;
  readonly labels: Readonly<Record<string, readonly string[]>>;
}

/** Words of PromQL that are no names of metrics. */
const WORDS = new Set(['by', 'without', 'on', 'ignoring', 'group_left', 'group_right', 'and', 'or', 'unless', 'bool']);

/** The metrics of a query, and the labels by which it groups. */
export function readQuery(query: string): { readonly uses: readonly Use[]; readonly groups: readonly string[] } {
  const texts: string[] = [];
  // A text may have brackets and names of its own.
  const withoutTexts = query
    .replaceAll(/"((?:[^"\\]|\\.)*)"/g, (_, text: string) => `"${texts.push(text) - 1}"`)
    .replaceAll(/\[[^\]]*\]/g, '');
  const groups: string[] = [];
  const rest = withoutTexts.replaceAll(/\b(?:by|without|on|ignoring)\s*\(([^)]*)\)/g, (_, names: string) => {
    groups.push(...namesIn(names));
    return ' ';
  });
  const uses = [...rest.matchAll(/([a-zA-Z_:][\w:]*)\s*(\(|\{[^}]*\})?/g)]
    .filter(([, name = '', behind = '']) => behind !== '(' && !WORDS.has(name))
    .map(([, metric = '', selector = '']) => ({
      metric,
      labels: Object.fromEntries(
        [...selector.matchAll(/(\w+)\s*(=~|!~|!=|=)\s*"(\d+)"/g)].map(([, label = '', operator = '', index]) => [
          label,
          operator.startsWith('!') ? [] : listed(texts[Number(index)] ?? ''),
        ]),
      ),
    }));
  return { uses, groups };
}

/** The values of `a|b`; none for any other pattern. */
const listed = (text: string): string[] => (/^[\w|-]+$/.test(text) ? text.split('|') : []);

const namesIn = (list: string): string[] =>
  list
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');

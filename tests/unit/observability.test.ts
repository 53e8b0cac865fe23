// deploy/observability and its pages: each alert has a page and tests, each query uses metrics and labels that exist, and the
// dashboards are valid. Whether alerts fire in their faults is tried in tests/process/alerts.test.ts.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { collectDefaultMetrics, Registry } from 'prom-client';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { metricDefinitions } from '../../src/engine/metrics/index.js';
import type { MetricDefinition } from '../../src/observability/metrics.js';
import { blocksOf, linksOf, readPage, ROOT } from '../support/docs.js';
import {
  alertOf,
  FOLDER,
  logQueries,
  promQueries,
  readAlerts,
  readDashboards,
  readQuery,
  runbooks,
} from '../support/observability.js';
import { isMissing, skipNote, type Program } from '../support/programs.js';
import { scaleDuration, scaleQuery, scaleRules } from '../support/scaled-rules.js';

const alerts = readAlerts();
const names = alerts.map(({ alert }) => alert);

/** Runs a program on files of the folder. */
function check(program: Program, ...args: readonly string[]): { readonly code: number | null; readonly said: string } {
  const { status, stdout } = spawnSync(program, args, { cwd: path.join(ROOT, FOLDER), encoding: 'utf8' });
  return { code: status, said: stdout };
}

describe('the alerts', () => {
  it('each have one page, and each page has one alert', () => {
    expect(runbooks.map(alertOf).toSorted()).toEqual(names.toSorted());
    expect(new Set(names).size).toBe(names.length);
    expect(names.length).toBeGreaterThan(20);
  });

  it.each(alerts)(
    '$alert says how urgent it is, what happened, and which page helps',
    ({ alert, labels, annotations }) => {
      expect(labels['severity']).toMatch(/^(?:page|ticket)$/);
      expect(Object.keys(annotations)).toEqual(['summary', 'description', 'runbook_url']);
      for (const text of [annotations['summary'], annotations['description']]) expect(text).toMatch(/^\S.{10,}/);
      expect(annotations['description']).toMatch(/\.$/);
      expect(annotations['runbook_url']).toBe(`docs/guide/runbooks/${alert}.md`);
    },
  );

  it.each(runbooks)('%s says what it means, how to confirm it, what to do and what it costs to wait', (page) => {
    const text = readPage(page);
    const headings = [...text.matchAll(/^#+ .*$/gm)].map(([heading]) => heading);
    expect(headings).toEqual([
      `# ${alertOf(page)}`,
      '## What it means',
      '## How to confirm it',
      '## What to do',
      '## What it costs to wait',
    ]);
    const severity = alerts.find(({ alert }) => alert === alertOf(page))?.labels['severity'] ?? '';
    expect(text).toContain(`\nSeverity: **${severity}**.\n`);
    expect(blocksOf(page).filter(({ language }) => language === 'promql')).toHaveLength(1);
  });

  it('are all in the table of the guide, with their severity', () => {
    const guide = readPage('docs/guide/observability.md');
    const rows = [...guide.matchAll(/^\| \[(\w+)\]\((\S+)\) \| (\w+) \| /gm)].map(([, name, link, severity]) => [
      name,
      link,
      severity,
    ]);
    const expected = alerts.map(({ alert, labels }) => [alert, `runbooks/${alert}.md`, labels['severity']]);
    expect(rows.toSorted()).toEqual(expected.toSorted());
    expect(linksOf(readPage('docs/README.md'))).toEqual(
      expect.arrayContaining(names.map((name) => `guide/runbooks/${name}.md`)),
    );
  });
});

describe('the tests of the alerts', () => {
  interface AlertTest {
    readonly name: string;
    readonly alert_rule_test: readonly { readonly alertname: string; readonly exp_alerts: readonly unknown[] }[];
  }
  const { tests } = parse(readPage(`${FOLDER}/alerts.test.yml`)) as { tests: readonly AlertTest[] };

  it.each(names)('%s: it fires, clears, and does not fire just below', (name) => {
    const [fires] = tests.filter((test) => test.name === `${name} fires and clears`);
    expect(fires?.alert_rule_test.map(({ exp_alerts }) => exp_alerts.length)).toEqual([0, 1, 0]);
    const below = tests.filter((test) => test.name.startsWith(`${name} does not fire `));
    expect(below.length).toBeGreaterThan(0);
    for (const { alert_rule_test: looks } of below)
      for (const { alertname, exp_alerts } of looks) expect([alertname, exp_alerts]).toEqual([name, []]);
  });

  it.skipIf(isMissing('promtool'))(`pass${skipNote('promtool')}`, () => {
    expect(check('promtool', 'test', 'rules', 'alerts.test.yml')).toMatchObject({ code: 0 });
  });
});

describe.skipIf(isMissing('promtool'))(`promtool${skipNote('promtool')}`, () => {
  it('accepts the rules and the configuration', () => {
    expect(check('promtool', 'check', 'rules', 'alerts.yml')).toMatchObject({ code: 0 });
    const { code, said } = check('promtool', 'check', 'config', 'prometheus.yml');
    expect(code, said).toBe(0);
    expect(said).toContain(`${names.length} rules found`);
  });
});

describe.skipIf(isMissing('amtool'))(`amtool${skipNote('amtool')}`, () => {
  it('accepts the receivers, and sends each severity to its own', () => {
    expect(check('amtool', 'check-config', 'alertmanager.yml')).toMatchObject({ code: 0 });
    for (const severity of ['page', 'ticket']) {
      const { said } = check(
        'amtool',
        'config',
        'routes',
        'test',
        '--config.file=alertmanager.yml',
        `severity=${severity}`,
      );
      expect(said.trim()).toBe(severity);
    }
  });
});

describe('the receivers', () => {
  interface Config {
    readonly inhibit_rules: readonly {
      readonly source_matchers: readonly string[];
      readonly target_matchers: readonly string[];
    }[];
  }

  it('name only alerts that exist in what silences them', () => {
    const { inhibit_rules: rules } = parse(readPage(`${FOLDER}/alertmanager.yml`)) as Config;
    const named = rules.flatMap((rule) => [...rule.source_matchers, ...rule.target_matchers]);
    const silenced = named.flatMap((matcher) => /"(.*)"/.exec(matcher)?.[1]?.split('|') ?? []);
    expect(silenced.length).toBeGreaterThan(3);
    for (const name of silenced) expect(names).toContain(name);
  });
});

describe('the dashboards', () => {
  const dashboards = readDashboards();
  const sources = parse(readPage(`${FOLDER}/grafana/datasources.yml`)) as {
    datasources: readonly { readonly uid: string; readonly type: string }[];
  };

  it('show the fleet, one tenant, one server, and sign-in and security', () => {
    expect(dashboards.map(({ uid }) => uid)).toEqual([
      'tenantry-fleet',
      'tenantry-server',
      'tenantry-sign-in',
      'tenantry-tenant',
    ]);
    const variables = Object.fromEntries(
      dashboards.map(({ uid, templating }) => [uid, templating.list.map(({ name }) => name)]),
    );
    expect(variables).toMatchObject({ 'tenantry-tenant': ['tenant'], 'tenantry-server': ['cluster'] });
  });

  it.each(dashboards)(
    '$name has panels with a title, plain words, a unit and a source that is provisioned',
    ({ panels }) => {
      const all = panels.filter(({ type }) => type !== 'row');
      expect(all.length).toBeGreaterThan(8);
      expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
      for (const { type, title, description = '', datasource, targets = [], fieldConfig } of all) {
        expect(['timeseries', 'stat', 'table', 'logs'], title).toContain(type);
        expect(description, title).toMatch(/^\S.{5,}\.$/);
        expect(targets.length, title).toBeGreaterThan(0);
        expect(new Set(targets.map(({ refId }) => refId)).size, title).toBe(targets.length);
        if (type !== 'logs')
          expect(fieldConfig?.defaults.unit, title).toMatch(/^(?:short|s|bytes|reqps|cps|percentunit)$/);
        for (const source of [datasource, ...targets.map((target) => target.datasource)])
          expect(sources.datasources.map(({ uid, type }) => ({ type, uid }))).toContainEqual(source);
      }
    },
  );

  it.each(dashboards)('$name has panels that fill the width at most, and do not overlap', ({ panels }) => {
    const taken = new Map<string, string>();
    for (const { title, gridPos } of panels) {
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x += 1)
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y += 1) {
          expect(taken.get(`${x} ${y}`), `${title} lies on it`).toBeUndefined();
          taken.set(`${x} ${y}`, title);
        }
    }
  });

  it.each(dashboards)(
    '$name is of the form that Grafana 11 and later reads',
    ({ schemaVersion, title, description }) => {
      expect(schemaVersion).toBeGreaterThanOrEqual(39);
      expect(title).toMatch(/^Tenantry: /);
      expect(description).toMatch(/\S/);
    },
  );
});

describe('the queries of the log', () => {
  const collector = readPage(`${FOLDER}/config.alloy`);
  /** The names in the block `values` of a stage. */
  const namesIn = (stage: string): string[] => {
    const [, values = ''] = new RegExp(`stage\\.${stage} \\{\\s+values = \\{([^}]*)\\}`).exec(collector) ?? [];
    return [...values.matchAll(/(\w+)\s*=/g)].map(([, name = '']) => name);
  };
  const labels = ['service', ...namesIn('labels')];
  const fields = namesIn('structured_metadata');

  it('have labels with few values, and everything else as structured metadata', () => {
    expect(labels).toEqual(['service', 'level', 'event']);
    expect(fields).toEqual(expect.arrayContaining(['security', 'reqId', 'traceId', 'route', 'status', 'tenantId']));
  });

  /** The names in the first column of a table of the reference of the log. */
  const namesUnder = (heading: string): string[] => {
    const [, section = ''] =
      new RegExp(`^## ${heading}\n([\\s\\S]*?)(?=\n## |$(?![\\s\\S]))`, 'm').exec(readPage('docs/reference/log.md')) ??
      [];
    return [...section.matchAll(/^\| `([^`]+)` \|/gm)].map(([, name = '']) => name);
  };

  it('are about fields and events that the service writes', () => {
    for (const field of [...labels, ...fields]) if (field !== 'service') expect(namesUnder('Fields')).toContain(field);
    const events = logQueries().flatMap(({ text }) => /event=~?"([\w|-]+)"/.exec(text)?.[1]?.split('|') ?? []);
    expect(events.length).toBeGreaterThan(5);
    for (const event of events) expect(namesUnder('Security events')).toContain(event);
  });

  it('look for texts that the service writes', () => {
    const source = readdirSync(path.join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => readPage(path.join('src', name)))
      .join('\n');
    const texts = logQueries().flatMap(({ text }) =>
      [...text.matchAll(/\|= "([^"]+)"/g)].map(([, words = '']) => words),
    );
    expect(texts.length).toBeGreaterThan(3);
    for (const text of texts) expect(source).toContain(text);
  });

  it('select by the labels of the collector, and filter by its fields', () => {
    expect(logQueries().length).toBeGreaterThan(10);
    for (const { where, text } of logQueries()) {
      const [, selector = '', filters = ''] = /\{([^}]*)\}(.*)$/.exec(text) ?? [];
      expect(selector, where).not.toBe('');
      const used = (part: string): string[] =>
        [...part.matchAll(/(\w+)\s*(?:=~|!~|!=|=)\s*"/g)].map(([, name = '']) => name);
      for (const name of used(selector)) expect(labels, `${where}: ${text}`).toContain(name);
      for (const name of used(filters)) expect(fields, `${where}: ${text}`).toContain(name);
    }
  });
});

describe('the queries of alerts, dashboards and runbooks', () => {
  const node = new Registry();
  collectDefaultMetrics({ register: node });

  /** The labels of each series that a scrape can have. Prometheus renames our label `job`, because it has one of its own. */
  const series = new Map<string, readonly string[]>([
    ['up', []],
    ['ALERTS', ['alertname', 'alertstate', 'severity']],
    ...node.getMetricsAsArray().flatMap(({ name }) => seriesOf(name, [], 'summary')),
    ...metricDefinitions.flatMap(({ name, labels, kind }) =>
      seriesOf(
        name,
        labels.map((label) => (label === 'job' ? 'exported_job' : label)),
        kind,
      ),
    ),
  ]);

  function seriesOf(name: string, labels: readonly string[], kind: string): [string, readonly string[]][] {
    if (kind === 'counter' || kind === 'gauge') return [[name, labels]];
    return [
      [`${name}_bucket`, [...labels, 'le']],
      [`${name}_sum`, labels],
      [`${name}_count`, labels],
      ...(kind === 'summary' ? [[name, labels] as [string, readonly string[]]] : []),
    ];
  }

  const definitionOf = (metric: string): MetricDefinition | undefined =>
    metricDefinitions.find(({ name, labels, kind }) => seriesOf(name, labels, kind).some(([one]) => one === metric));

  it('use only metrics that the service has, by labels and values that they have', () => {
    expect(metricDefinitions.length).toBeGreaterThan(50);
    const wrong: string[] = [];
    for (const { where, text } of promQueries()) {
      const { uses, groups } = readQuery(text);
      const known = new Set(['job', 'instance', ...uses.flatMap(({ metric }) => series.get(metric) ?? [])]);
      for (const { metric, labels } of uses) {
        if (!series.has(metric)) wrong.push(`${where}: there is no metric ${metric}`);
        const own = ['job', 'instance', ...(series.get(metric) ?? [])];
        const definition = definitionOf(metric);
        for (const [label, wanted] of Object.entries(labels)) {
          if (!own.includes(label)) wrong.push(`${where}: ${metric} has no ${label}`);
          const values = definition?.values?.[label] ?? wanted;
          wrong.push(
            ...wanted.filter((value) => !values.includes(value)).map((value) => `${where}: no ${label} is ${value}`),
          );
        }
      }
      wrong.push(...groups.filter((label) => !known.has(label)).map((label) => `${where}: nothing has ${label}`));
      if (uses.length === 0) wrong.push(`${where}: no metric in ${text}`);
    }
    expect(wrong).toEqual([]);
  });

  it('have variables that are values of a label', () => {
    for (const { name, templating } of readDashboards())
      for (const { definition } of templating.list) {
        const [, metric = '', label = ''] = /^label_values\((\w+), (\w+)\)$/.exec(definition) ?? [];
        expect(series.get(metric), name).toContain(label);
      }
  });
});

describe('a query', () => {
  it('is read as the metrics that it uses, with the labels by which they are selected and grouped', () => {
    expect(readQuery('time() - max by (job, instance) (a_total{x="f(y)", y!="d", z=~"b|c"} > 0)')).toEqual({
      uses: [{ metric: 'a_total', labels: { x: [], y: [], z: ['b', 'c'] } }],
      groups: ['job', 'instance'],
    });
    expect(readQuery('rate(a[5m]) / on (c) group_left b unless d')).toEqual({
      uses: ['a', 'b', 'd'].map((metric) => ({ metric, labels: {} })),
      groups: ['c'],
    });
    expect(promQueries().length).toBeGreaterThan(100);
  });
});

describe('a rule that is scaled', () => {
  it('has durations divided, whatever their units, and never of length 0', () => {
    expect(scaleDuration('5m', 30)).toBe('10000ms');
    expect(scaleDuration('1h30m', 60)).toBe('90000ms');
    expect(scaleDuration('15s', 60)).toBe('250ms');
    expect(scaleDuration('1ms', 60)).toBe('1ms');
    for (const none of ['', '5', 'm', '5 m', '5m!', '-5m']) expect(() => scaleDuration(none, 2)).toThrow('no duration');
  });

  it('has each range of its query divided, and no number and no text', () => {
    expect(scaleQuery('rate(a{b="[5m]"}[5m]) > 300 and max_over_time(c[1h:5m]) > 2', 60)).toBe(
      'rate(a{b="[5m]"}[5000ms]) > 300 and max_over_time(c[60000ms:5000ms]) > 2',
    );
  });

  it('keeps everything else', () => {
    const scaled = parse(scaleRules(readPage(`${FOLDER}/alerts.yml`), 1)) as {
      groups: readonly { readonly rules: readonly (typeof alerts)[number][] }[];
    };
    const rules = scaled.groups.flatMap((group) => group.rules);
    expect(rules.map(({ alert, labels, annotations }) => ({ alert, labels, annotations }))).toEqual(
      alerts.map(({ alert, labels, annotations }) => ({ alert, labels, annotations })),
    );
    expect(rules.find(({ alert }) => alert === 'TenantryErrorsHigh')?.for).toBe('120000ms');
  });
});

// The text format of Prometheus, read: what a scrape of the service answered.

export interface Series {
  /** With the suffix of a histogram, such as `_count`. */
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Exposition {
  readonly text: string;
  readonly series: readonly Series[];
  /** The series of a metric; for a histogram those of its count. */
  of(name: string): readonly Series[];
  /** The sum of the series of a metric that have these labels; undefined if there is none. */
  sum(name: string, labels?: Readonly<Record<string, string>>): number | undefined;
}

const LINE = /^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (\S+)$/i;
const LABEL = /([a-z_]+)="((?:[^"\\]|\\.)*)"(?:,|$)/g;

/** @throws Error for a line that is not of the format */
export function parseExposition(text: string): Exposition {
  const series: Series[] = [];
  const histograms = new Set<string>();
  for (const line of text.split('\n')) {
    const [, histogram] = /^# TYPE (\S+) histogram$/.exec(line) ?? [];
    if (histogram !== undefined) histograms.add(histogram);
    if (line === '' || line.startsWith('#')) continue;
    const [, name, labels = '', value] = LINE.exec(line) ?? [];
    if (name === undefined || value === undefined || Number.isNaN(Number(value.replace('Inf', 'Infinity'))))
      throw new Error(`not a line of the format: ${line}`);
    series.push({
      name,
      labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, label = '', given = '']) => [label, given])),
      value: Number(value.replace('Inf', 'Infinity')),
    });
  }
  const of = (name: string): Series[] => {
    const shown = histograms.has(name) ? `${name}_count` : name;
    return series.filter((one) => one.name === shown);
  };
  return {
    text,
    series,
    of,
    sum(name, wanted = {}) {
      const found = of(name).filter(({ labels }) =>
        Object.entries(wanted).every(([label, value]) => labels[label] === value),
      );
      return found.length === 0 ? undefined : found.reduce((sum, { value }) => sum + value, 0);
    },
  };
}

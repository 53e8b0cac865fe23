// The metrics of one engine, in the text format of Prometheus. An instrument counts events where they happen; a reading asks a room
// for its numbers at each scrape. Every metric has a definition, from which docs/reference/metrics.md is generated.
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { within } from '../lib/deadline.js';

/** What a metric is, for Prometheus and for the reference. */
export interface MetricDefinition<L extends string = string> {
  /** `tenantry_<what>_<unit>`; a counter ends in `_total`. */
  readonly name: string;
  readonly kind: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly L[];
  /** What the number is, with its unit. */
  readonly help: string;
  /** What an operator learns from it. */
  readonly reason: string;
  /** Upper bounds of a histogram's buckets, in the unit of the metric. */
  readonly buckets?: readonly number[];
  /**
   * Every value of each label, if they are known beforehand; `{}` if there is no label. The series of an event metric then begin
   * at 0 when the process starts. Otherwise a series would begin with its first event, and Prometheus would not see that event as
   * a change.
   */
  readonly values?: Readonly<Partial<Record<L, readonly string[]>>>;
}

type LabelsOf<D> = D extends MetricDefinition<infer L> ? L : never;

/** The object that counts events of a definition: `inc` of a counter or gauge, `observe` of a histogram. */
export type Instrument<D extends MetricDefinition> = D['kind'] extends 'histogram'
  ? Histogram<LabelsOf<D>>
  : D['kind'] extends 'counter'
    ? Counter<LabelsOf<D>>
    : Gauge<LabelsOf<D>>;

/** One number of a reading. */
export interface Sample<L extends string = string> {
  readonly labels: Readonly<Record<L, string>>;
  readonly value: number;
}

/** Asks for the numbers of a metric. Series that it does not return are gone from the answer. */
export type Read<L extends string = string> = () => Iterable<Sample<L>> | Promise<Iterable<Sample<L>>>;

export interface Metrics {
  /** Makes the object that counts events. Resolve its label sets once, at the start: `counter.labels('GET')`. */
  instrument<const D extends MetricDefinition>(definition: D): Instrument<D>;
  /** Asks `read` at each scrape. A reading that fails or takes longer than READ_DEADLINE has no series in that scrape. */
  reading<L extends string>(definition: MetricDefinition<L>, read: Read<L>): void;
  /**
   * Begins to measure Node.js itself: event loop, memory, garbage collection, processor. Measuring does not end before the process
   * does, and all engines of a process share it.
   */
  measureNode(): void;
  /** The answer to a scrape. It waits for the readings at most READ_DEADLINE, or twice that while many scrape at once. */
  expose(): Promise<{ readonly contentType: string; readonly body: string }>;
}

/** Longest wait (ms) for one reading: a scrape must answer while the registry hangs. */
const READ_DEADLINE = 2_000;

/** Series of Node.js that have no number: the event loop has not turned since the last scrape. */
const NOT_A_NUMBER = /^.* Nan\n/gm;

/** @param onError receives the error of a reading */
export function createMetrics(onError: (error: unknown, context: { readonly metric: string }) => void): Metrics {
  const registry = new Registry();
  const readings: (() => Promise<void>)[] = [];
  let node: Registry | undefined;
  let current: Promise<string> | undefined;
  let next: Promise<string> | undefined;

  async function read(): Promise<string> {
    await Promise.all(readings.map((one) => one()));
    const own = await registry.metrics();
    return node ? `${own}\n${(await node.metrics()).replaceAll(NOT_A_NUMBER, '')}` : own;
  }

  function begin(): Promise<string> {
    const reading = read().finally(() => (current = undefined));
    return (current = reading);
  }

  return {
    instrument(definition) {
      const metric = make(definition, registry);
      if (!(metric instanceof Gauge)) beginAtZero(metric, definition);
      return metric as Instrument<typeof definition>;
    },

    reading(definition, read) {
      const metric = make(definition, registry);
      if (metric instanceof Histogram) throw new TypeError(`${definition.name}: a histogram cannot be read`);
      readings.push(async () => {
        let samples: Iterable<Sample<(typeof definition.labels)[number]>> = [];
        try {
          samples = await within(ask(read), READ_DEADLINE, () => new Error('the reading took too long'));
        } catch (error) {
          onError(error, { metric: definition.name });
        }
        // In one turn of the event loop, because two scrapes can run at once.
        metric.reset();
        // prom-client has reset a metric without labels to 0, which would be a number that nobody read.
        if (definition.labels.length === 0) metric.remove();
        for (const { labels, value } of samples) metric.inc(labels, value);
      });
    },

    measureNode() {
      node ??= nodeMetrics();
    },

    async expose() {
      // Scrapes that come while one is read share the reading after it. So a hundred scrapes cost two, and none is answered with
      // numbers from before it came.
      const body = await (current
        ? (next ??= current.then(() => {
            next = undefined;
            return begin();
          }))
        : begin());
      return { contentType: registry.contentType, body };
    },
  };
}

let nodeRegistry: Registry | undefined;

/** One for the process: prom-client's observers of the event loop and of garbage collection cannot be ended. */
function nodeMetrics(): Registry {
  if (nodeRegistry) return nodeRegistry;
  nodeRegistry = new Registry();
  collectDefaultMetrics({ register: nodeRegistry });
  return nodeRegistry;
}

/** Makes the series of all label sets that are known beforehand. */
function beginAtZero<L extends string>(
  metric: Counter<L> | Histogram<L>,
  { labels, values }: MetricDefinition<L>,
): void {
  if (!values) return;
  let sets: Partial<Record<L, string>>[] = [{}];
  for (const label of labels)
    sets = sets.flatMap((set) => (values[label] ?? []).map((value) => ({ ...set, [label]: value })));
  for (const set of sets) {
    if (metric instanceof Histogram) metric.zero(set);
    else metric.inc(set, 0);
  }
}

async function ask<L extends string>(read: Read<L>): Promise<Iterable<Sample<L>>> {
  return read();
}

function make<L extends string>(
  { name, kind, labels, help, buckets }: MetricDefinition<L>,
  registry: Registry,
): Counter<L> | Gauge<L> | Histogram<L> {
  const settings = { name, help, labelNames: labels, registers: [registry] };
  if (kind === 'counter') return new Counter(settings);
  if (kind === 'gauge') return new Gauge(settings);
  return new Histogram({ ...settings, ...(buckets && { buckets: [...buckets] }) });
}

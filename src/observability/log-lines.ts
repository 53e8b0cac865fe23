// Counts the lines of a log by level, as they go to its stream: only there the lines of all child loggers meet.
import pino, { type DestinationStream, type Logger } from 'pino';
import type { MetricDefinition, Metrics } from './metrics.js';

export const LOG_LINES_TOTAL = {
  name: 'tenantry_log_lines_total',
  kind: 'counter',
  labels: ['level'],
  help: 'Lines of the log, by level.',
  reason: 'More warnings and errors than usual show trouble; a flood of lines shows why a disk fills.',
} as const satisfies MetricDefinition<'level'>;

/** Each level with its number, such as 30 for info. */
const levels = Object.entries(pino.levels.values);

/** Lines by the number of their level. */
type Counts = Float64Array;

const countsOf = new WeakMap<Logger, Counts>();

/** What the stream of a log may have besides `write`. pino flushes after a fatal line, because the process may end. */
type Flushable = DestinationStream & {
  flush?(done?: (error?: Error) => void): void;
  flushSync?(): void;
};

class CountedStream implements DestinationStream {
  /** pino then sets `lastLevel` before each line. Reading the level in the text would cost more. */
  readonly [pino.symbols.needsMetadataGsym] = true;
  lastLevel = 0;

  constructor(
    private readonly to: Flushable,
    private readonly counts: Counts,
  ) {}

  write(line: string): void {
    this.counts[this.lastLevel] = (this.counts[this.lastLevel] ?? 0) + 1;
    this.to.write(line);
  }

  flush(done?: (error?: Error) => void): void {
    if (this.to.flush) this.to.flush(done);
    else done?.();
  }

  flushSync(): void {
    this.to.flushSync?.();
  }
}

/** Makes a log whose lines are counted. @param make makes it on the stream that it is given */
export function withCountedLines(to: Flushable, make: (stream: DestinationStream) => Logger): Logger {
  const counts = new Float64Array(Math.max(...levels.map(([, number]) => number)) + 1);
  const log = make(new CountedStream(to, counts));
  countsOf.set(log, counts);
  return log;
}

/** Shows how many lines a log has written that `createLogger` made. */
export function showLines(metrics: Metrics, log: Logger): void {
  const counts = countsOf.get(log);
  if (!counts) return;
  metrics.reading(LOG_LINES_TOTAL, () =>
    levels.map(([level, number]) => ({ labels: { level }, value: counts[number] ?? 0 })),
  );
}

// Counts the lines of a log by level. The count is taken from the text of the line as it goes to its stream: pino has no cheaper
// place that sees the lines of all child loggers.
import type { DestinationStream, Logger } from 'pino';
import type { MetricDefinition, Metrics } from './metrics.js';

export const LOG_LINES_TOTAL = {
  name: 'tenantry_log_lines_total',
  kind: 'counter',
  labels: ['level'],
  help: 'Lines of the log, by level.',
  reason: 'More warnings and errors than usual show trouble; a flood of lines shows why a disk fills.',
} as const satisfies MetricDefinition<'level'>;

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const;

/** The level is the first field, and no two levels begin with the same letter. */
const LETTER = '{"level":"'.length;

/** Lines by the code of that letter. */
type Counts = Float64Array;

const countsOf = new WeakMap<Logger, Counts>();

export interface CountedStream extends DestinationStream {
  flush(done?: (error?: Error) => void): void;
  flushSync(): void;
}

/** What the stream of a log may have besides `write`. */
type Flushable = DestinationStream & {
  flush?(done?: (error?: Error) => void): void;
  flushSync?(): void;
};

/** @returns the stream to log to, and the function to call with its log */
export function countLines(to: Flushable): { readonly stream: CountedStream; readonly of: (log: Logger) => Logger } {
  const counts = new Float64Array(128);
  return {
    stream: {
      write(line) {
        const letter = line.charCodeAt(LETTER);
        counts[letter] = (counts[letter] ?? 0) + 1;
        to.write(line);
      },
      // pino calls these when the process ends, and after a fatal error.
      flush(done) {
        if (to.flush) to.flush(done);
        else done?.();
      },
      flushSync: () => to.flushSync?.(),
    },
    of: (log) => {
      countsOf.set(log, counts);
      return log;
    },
  };
}

/** Shows the lines of a log that `createLogger` made. */
export function showLines(metrics: Metrics, log: Logger): void {
  const counts = countsOf.get(log);
  if (!counts) return;
  metrics.reading(LOG_LINES_TOTAL, () =>
    levels.map((level) => ({ labels: { level }, value: counts[level.charCodeAt(0)] ?? 0 })),
  );
}

// What the start is doing, so that the terminal is not silent: a line for each step that may take seconds.
import type { Logger } from 'pino';

export interface StartSteps {
  /** @param what continues "The service is …", for example `starting the embedded PostgreSQL` */
  begin(what: string): void;
  /** Time (s) since the start began, with one decimal: `3.1`. */
  readonly seconds: string;
}

/**
 * On a terminal each step is a line with the time since the start. Otherwise each step is a line of the log.
 *
 * @param terminal writes to the terminal; undefined if standard output is none
 * @param headline the first line on a terminal
 */
export function startSteps(terminal: ((text: string) => void) | undefined, log: Logger, headline: string): StartSteps {
  const began = performance.now();
  const seconds = (): string => ((performance.now() - began) / 1_000).toFixed(1);
  terminal?.(`${headline}\n`);
  return {
    begin(what) {
      if (terminal) terminal(`${seconds().padStart(6)} s  ${what}\n`);
      else log.info(`starting: ${what}`);
    },
    get seconds() {
      return seconds();
    },
  };
}

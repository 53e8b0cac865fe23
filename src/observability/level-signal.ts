// SIGUSR2 raises the level of the log of a running process for a while, and a second SIGUSR2 returns to the level of LOG_LEVEL.
//
//   LOG_LEVEL --SIGUSR2--> raised --SIGUSR2, or RAISED_FOR--> LOG_LEVEL
//
// A raised level ends by itself, because a forgotten one fills the disk. Windows has no such signals.
import type { Logger } from 'pino';

/** Time (ms) after which the level of LOG_LEVEL is back. */
export const RAISED_FOR = 15 * 60_000;

const MINUTES = `${RAISED_FOR / 60_000} minutes`;

/** @param production whether the process must not open Node's inspector */
export function followSignals(log: Logger, production: boolean): void {
  if (process.platform === 'win32') return;
  process.on('SIGUSR2', createLevelSwitch(log));
  // Node opens its inspector on SIGUSR1, in which every local user could run code. With a listener Node does not open it.
  if (production)
    process.on('SIGUSR1', () => {
      log.warn({ signal: 'SIGUSR1' }, 'SIGUSR1 has no effect: SIGUSR2 changes the log level');
      log.flush();
    });
}

/** @returns the function to call for each signal. The loggers that are made from `log` follow, unless they have a level of their own */
export function createLevelSwitch(log: Logger): () => void {
  const usual = log.level;
  const raised = usual === 'debug' ? 'trace' : 'debug';
  let timer: NodeJS.Timeout | undefined;

  function raise(): void {
    timer = setTimeout(giveBack, RAISED_FOR).unref();
    log.level = raised;
    const until = new Date(Date.now() + RAISED_FOR).toISOString();
    say({ logLevel: raised, until }, `the log level is ${raised} for ${MINUTES}: SIGUSR2 returns to ${usual} at once`);
  }

  function giveBack(): void {
    clearTimeout(timer);
    timer = undefined;
    say({ logLevel: usual }, `the log level is ${usual} again: SIGUSR2 raises it to ${raised} for ${MINUTES}`);
    log.level = usual;
  }

  /** Written at once: the person who sent the signal waits for the line. */
  function say(fields: object, text: string): void {
    log.info(fields, text);
    log.flush();
  }

  return () => {
    if (usual === 'trace') say({ logLevel: usual }, 'the log level is trace, the lowest: SIGUSR2 has no effect');
    else if (timer) giveBack();
    else raise();
  };
}

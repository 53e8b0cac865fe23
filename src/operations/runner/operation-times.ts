// The times of the runner, and how long requests wait for their operations. Tests shorten some of them.

/** All in ms. */
export interface OperationTimes {
  /** The pause before the next attempt doubles from the first to the longest, with up to a fifth of jitter. */
  readonly firstPause: number;
  readonly longestPause: number;
  /** Longest pause of a worker that keeps the lock meanwhile: other acts on the subject wait for the lock. */
  readonly longestHeldPause: number;
  /** Time between two looks for due operations: while operations were found, and otherwise. Up to a fifth of jitter is added. */
  readonly lookSoon: number;
  readonly lookEvery: number;
  /** Longest wait for a turn on a server. */
  readonly turnPatience: number;
  /** Longest time that a request waits for its tenant. */
  readonly createDeadline: number;
  /**
   * Longest time that an answer waits for a removal. DROP DATABASE waits for a checkpoint and deletes files, which takes many
   * seconds on a slow disk, as making a database does.
   */
  readonly removeDeadline: number;
  /** Longest time that an answer waits for a database to close, and for one that must open first. */
  readonly closeDeadline: number;
  readonly openDeadline: number;
  /** Longest time that a request waits for the template of a new server. */
  readonly prepareDeadline: number;
  /** Longest time that a request waits for the drop of standby databases. */
  readonly drainDeadline: number;
  /** Longest time that a repeated request waits for the operation that the first one began. */
  readonly repeatDeadline: number;
}

export const OPERATION_TIMES: OperationTimes = {
  firstPause: 250,
  longestPause: 30_000,
  longestHeldPause: 2_000,
  lookSoon: 1_000,
  lookEvery: 5_000,
  turnPatience: 20_000,
  createDeadline: 25_000,
  removeDeadline: 25_000,
  closeDeadline: 6_000,
  openDeadline: 15_000,
  prepareDeadline: 25_000,
  drainDeadline: 10_000,
  repeatDeadline: 15_000,
};

// What is known of each job of this process: its last runs, and why they failed.
import { inPlainWords } from './plain-words.js';

/** One job in this process. Times are in ms; `…Ago` is the time since then. Runs on other replicas are not in it. */
export interface JobState {
  readonly name: string;
  /** The pause between two runs. */
  readonly every: number;
  /** How long the present run has taken; undefined while the job does not run here. */
  readonly runningFor: number | undefined;
  /** Runs that have ended since the process started. An attempt while another replica ran the job is none. */
  readonly runs: number;
  readonly failures: number;
  /** Failures since the last success. */
  readonly failuresInARow: number;
  /** When the last run ended; undefined if none has ended yet. */
  readonly lastRunAgo: number | undefined;
  readonly lastSuccessAgo: number | undefined;
  readonly lastDuration: number | undefined;
  /** Why the last run failed, in plain words; undefined if it succeeded. */
  readonly lastError: string | undefined;
}

/** Records the runs of one job. */
export class JobRecord {
  #begunAt: number | undefined;
  #runs = 0;
  #failures = 0;
  #inARow = 0;
  #endedAt: number | undefined;
  #succeededAt: number | undefined;
  #duration: number | undefined;
  #error: string | undefined;

  constructor(
    private readonly name: string,
    private readonly every: number,
  ) {}

  began(): void {
    this.#begunAt = performance.now();
  }

  /** @returns the duration of the run in seconds */
  succeeded(): number | undefined {
    const seconds = this.#ended();
    this.#succeededAt = this.#endedAt;
    this.#inARow = 0;
    this.#error = undefined;
    return seconds;
  }

  /**
   * Also if the job could not begin, because its lock could not be asked for.
   *
   * @returns the duration of the run in seconds; undefined if the job did not begin
   */
  failed(error: unknown): number | undefined {
    const seconds = this.#ended();
    this.#failures += 1;
    this.#inARow += 1;
    this.#error = inPlainWords(error);
    return seconds;
  }

  /** The run was ended by the end of the process, which says nothing about the job. */
  stopped(): void {
    this.#begunAt = undefined;
  }

  get state(): JobState {
    const now = performance.now();
    const ago = (at: number | undefined): number | undefined => (at === undefined ? undefined : now - at);
    return {
      name: this.name,
      every: this.every,
      runningFor: ago(this.#begunAt),
      runs: this.#runs,
      failures: this.#failures,
      failuresInARow: this.#inARow,
      lastRunAgo: ago(this.#endedAt),
      lastSuccessAgo: ago(this.#succeededAt),
      lastDuration: this.#duration,
      lastError: this.#error,
    };
  }

  #ended(): number | undefined {
    const now = performance.now();
    const duration = this.#begunAt === undefined ? undefined : now - this.#begunAt;
    this.#runs += 1;
    this.#duration = duration ?? 0;
    this.#endedAt = now;
    this.#begunAt = undefined;
    return duration === undefined ? undefined : duration / 1_000;
  }
}

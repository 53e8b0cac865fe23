// What the benchmark and the processes that it starts tell each other over IPC.

/** To `floor.ts`. */
export interface FloorJob {
  /** Entered as the owner of the databases. */
  readonly server: { readonly host: string; readonly port: number; readonly user: string; readonly password: string };
  readonly tenants: readonly { readonly id: string; readonly database: string }[];
  /** Connections per tenant. */
  readonly poolMax: number;
  /** In base64. */
  readonly cursorSecret: string;
}

/** From `floor.ts`, when it listens. */
export interface FloorReady {
  readonly port: number;
}

export interface LoadRequest {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** To `load.ts`. Times in seconds. */
export interface LoadJob {
  readonly url: string;
  readonly connections: number;
  readonly warmup: number;
  readonly seconds: number;
  /** Dealt out to the connections, each of which goes round and round through its own. */
  readonly requests: readonly LoadRequest[];
}

/** To `verifies.ts`. Times in seconds. */
export interface VerifyJob {
  readonly passwordHash: string;
  readonly password: string;
  /** Verifies in flight. */
  readonly concurrency: number;
  readonly warmup: number;
  readonly seconds: number;
}

/** To `open-load.ts`. Times in seconds. */
export interface OpenLoadJob {
  readonly url: string;
  /** Requests a second, sent whatever became of those before. */
  readonly rate: number;
  readonly warmup: number;
  readonly seconds: number;
  /** Gone through in order, round and round. */
  readonly requests: readonly LoadRequest[];
  /** Whether an answer that is no success is a failure, or one of the figures. */
  readonly successOnly: boolean;
}

/** To `flood.ts`. It floods until it is told `finish`. */
export interface FloodJob {
  readonly url: string;
  /** Requests that wait at once. */
  readonly clients: number;
  readonly request: LoadRequest;
  /** Seconds after which it ends by itself. */
  readonly longest: number;
}

/** To a driver that runs until it is told so. */
export type DriverOrder = 'finish';

/** From every driver: `begin` and `end` at the very edges of what is measured, then the figures. */
export type DriverMessage<Result> = { readonly kind: 'begin' } | { readonly kind: 'end' } | (Result & Ended);

interface Ended {
  readonly kind: 'result';
  /** What went wrong, warm-up included; undefined where nothing did. */
  readonly failure: string | undefined;
}

/** Of `load.ts` and `verifies.ts`. */
export interface LoadResult {
  /** Answers within the measured time. */
  readonly answers: number;
  /** Seconds that were measured in fact. */
  readonly seconds: number;
  /** Latencies in ms. */
  readonly p50: number;
  readonly p99: number;
}

/** How many answers there were of which kind. */
export interface AnswerCounts {
  /** Status 2xx. */
  readonly served: number;
  /** Status 503 with Retry-After. */
  readonly refused: number;
  /** Any other answer, and none. */
  readonly other: number;
  /** What the first of those was. */
  readonly firstOther: string | undefined;
}

/** Of `open-load.ts`. Times in ms, counted from when a request should have started. */
export interface OpenLoadResult extends AnswerCounts {
  readonly p50: number;
  readonly p99: number;
  /** Warm-up included. */
  readonly slowest: number;
  /** How late the generator itself was, 99th percentile: what of p99 is its own. */
  readonly lateness: number;
}

/** Of `flood.ts`. */
export interface FloodResult extends AnswerCounts {
  /** Those that still waited when it was told to finish. */
  readonly waiting: number;
  /** Median time until a refusal, in ms; 0 where there was none. */
  readonly untilRefused: number;
}

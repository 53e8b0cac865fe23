// The messages between the benchmark and the processes that it starts, over IPC.

/** To `floor.ts`. */
export interface FloorJob {
  /** Connected to as the owner of the databases. */
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
  readonly method: 'GET' | 'POST' | 'PATCH';
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
  /** Distributed over the connections, each of which repeats its own requests. */
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
  /** Requests a second, sent independently of earlier ones. */
  readonly rate: number;
  readonly warmup: number;
  readonly seconds: number;
  /** Sent in order, repeatedly. */
  readonly requests: readonly LoadRequest[];
  /** True: an answer that is no success is a failure. False: it is one of the figures. */
  readonly successOnly: boolean;
  /**
   * Connections, opened before the load, as a balancer has them: a request waits for a free one. Default: each request that finds
   * none free opens one.
   */
  readonly connections?: number;
}

/** To `flood.ts`. It floods until it gets the order `finish`. */
export interface FloodJob {
  readonly url: string;
  /** Requests that wait at once. */
  readonly clients: number;
  readonly request: LoadRequest;
  /** Seconds after which the flood ends by itself. */
  readonly longest: number;
}

/** To `plain-loop.ts`: adds a column to `products` in each database. */
export interface PlainLoopJob {
  /** Connected to as the owner of the databases. */
  readonly server: { readonly host: string; readonly port: number; readonly user: string; readonly password: string };
  readonly databases: readonly string[];
  readonly atOnce: number;
  /** The name of the migration, and of the column. */
  readonly step: string;
  /** Seconds after which it has failed. */
  readonly longest: number;
}

/** To `newer-build.ts`: a rollout of a build with these migrations, each of which adds the column of its name to `products`. */
export interface NewerBuildJob {
  readonly env: Readonly<Record<string, string>>;
  readonly steps: readonly string[];
  /** Seconds after which it has failed. */
  readonly longest: number;
}

/** To a driver that runs until it gets this order. */
export type DriverOrder = 'finish';

/** From every driver: `begin` and `end` at the start and the end of the measured time, then the figures. */
export type DriverMessage<Result> = { readonly kind: 'begin' } | { readonly kind: 'end' } | (Result & Ended);

interface Ended {
  readonly kind: 'result';
  /** What went wrong, warm-up included; undefined if nothing did. */
  readonly failure: string | undefined;
}

/** Of `load.ts` and `verifies.ts`. */
export interface LoadResult {
  /** Answers within the measured time. */
  readonly answers: number;
  /** The actual length of the measured time, in seconds. */
  readonly seconds: number;
  /** Latencies in ms. */
  readonly p50: number;
  readonly p99: number;
}

/** The number of answers of each kind. */
export interface AnswerCounts {
  /** Status 2xx. */
  readonly served: number;
  /** Status 503 with Retry-After. */
  readonly refused: number;
  /** Any other answer, and requests without an answer. */
  readonly other: number;
  /** Describes the first of those. */
  readonly firstOther: string | undefined;
}

/** Of `open-load.ts`. Times in ms, counted from when a request should have started. */
export interface OpenLoadResult extends AnswerCounts {
  readonly p50: number;
  readonly p99: number;
  /** Warm-up included. */
  readonly slowest: number;
  /** Successes that arrived within the measured time, for each second. */
  readonly goodput: number;
  /** 99th percentile of the successes alone, and of the refusals. */
  readonly servedP99: number;
  readonly refusedP99: number;
  /** Lateness of the generator itself, 99th percentile: this part of p99 is not the server's. */
  readonly lateness: number;
}

/** Of `flood.ts`. */
export interface FloodResult extends AnswerCounts {
  /** Requests that still waited at the order to finish. */
  readonly waiting: number;
  /** Median time until a refusal, in ms; 0 if there was none. */
  readonly untilRefused: number;
}

/** Of `plain-loop.ts` and `newer-build.ts`. */
export interface RolledOut {
  /** Without the start of the process. */
  readonly ms: number;
  /** How many databases got the column. */
  readonly tenants: number;
  /** The most resident memory of the process, in MiB. */
  readonly peakMemory: number;
}

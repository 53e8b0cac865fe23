// What the benchmark and the processes that it starts tell each other over IPC.

/** To `floor.ts`. */
export interface FloorJob {
  /** Entered as the owner of the databases. */
  readonly server: { readonly host: string; readonly port: number; readonly user: string; readonly password: string };
  readonly tenants: readonly { readonly id: string; readonly database: string }[];
  /** Connections per tenant. */
  readonly poolMax: number;
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

/** From `load.ts` and `verifies.ts`: `begin` and `end` at the very edges of what is measured, then the figures. */
export type DriverMessage = { readonly kind: 'begin' } | { readonly kind: 'end' } | DriverResult;

export interface DriverResult {
  readonly kind: 'result';
  /** Answers within the measured time. */
  readonly answers: number;
  /** Seconds that were measured in fact. */
  readonly seconds: number;
  /** Latencies in ms. */
  readonly p50: number;
  readonly p99: number;
  /** What went wrong, warm-up included; undefined where nothing did. */
  readonly failure: string | undefined;
}

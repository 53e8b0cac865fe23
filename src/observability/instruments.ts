// The metrics that count events: what each counts, and the objects that count. Numbers that a room already has are readings
// instead (src/engine/metrics).
import { catalogue, rateLimits } from '../errors.js';
import type { Instrument, MetricDefinition, Metrics } from './metrics.js';

/** Upper bounds (seconds) of the durations of requests: from a cached read to the longest deadlines. */
const REQUEST_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/** A hash takes about 20 ms on a quiet machine. */
const HASH_BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];

/** From a quick look to a round over a large fleet. */
const JOB_BUCKETS = [0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1_800];

/** A claim of a standby database takes 33 ms, and a copy of the template 45 ms. */
const CREATION_BUCKETS = [0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/** From the claim of a standby database to work that waited for a server over a weekend. */
const OPERATION_BUCKETS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1_800, 7_200];

/** To add a metric, add its definition here, and an act that makes it change to tests/integration/metrics.test.ts. */
export const eventMetrics = {
  httpRequestDuration: {
    name: 'tenantry_http_request_duration_seconds',
    kind: 'histogram',
    labels: ['method', 'route', 'status'],
    buckets: REQUEST_BUCKETS,
    help: 'Time in seconds from the head of a request to the end of its answer. `route` is the pattern, or `none` for an unknown address. The count is the number of answered requests.',
    reason: 'Rate, errors and duration of every route; a replica that is slower than the others.',
  },
  httpErrors: {
    name: 'tenantry_http_errors_total',
    kind: 'counter',
    labels: ['code'],
    values: { code: Object.keys(catalogue) },
    help: 'Error answers (4xx and 5xx) by the `code` of the problem document. Requests that the HTTP parser refused count here only.',
    reason: 'Which error clients get: the codes are those of the reference of errors, with what to do.',
  },
  signIns: {
    name: 'tenantry_sign_ins_total',
    kind: 'counter',
    labels: ['realm', 'outcome'],
    values: { realm: ['tenant', 'operator'], outcome: ['success', 'failed', 'refused'] },
    help: 'Attempts to sign in. `failed` got 401. `refused` got 429 because of earlier failures, before the password was checked.',
    reason: 'An attack on passwords: many failed and refused attempts, few successes.',
  },
  refreshes: {
    name: 'tenantry_refreshes_total',
    kind: 'counter',
    labels: ['outcome'],
    values: { outcome: ['success', 'refused', 'reused'] },
    help: 'Refreshes of sessions. `reused` means that a refresh token was presented a second time, which ended its session.',
    reason: 'A stolen refresh token shows as `reused`. Many `refused` mean clients with sessions that have ended.',
  },
  sessionsEnded: {
    name: 'tenantry_sessions_ended_total',
    kind: 'counter',
    labels: ['reason'],
    values: { reason: ['logout', 'revoked', 'logout-all', 'reuse', 'crowded-out', 'account-changed'] },
    help: 'Sessions that were ended before they expired. `crowded-out` is the oldest session of an account with too many. `account-changed` is a new password or a deactivation. The sessions of a deleted user, and the sign-out of a whole tenant, are not counted.',
    reason: 'A wave of ended sessions explains a wave of sign-ins.',
  },
  accessTokensRefused: {
    name: 'tenantry_access_tokens_refused_total',
    kind: 'counter',
    labels: ['reason'],
    values: { reason: ['missing', 'invalid', 'expired', 'wrong-kind', 'session-ended', 'inactive-account'] },
    help: 'Requests refused because of their access token. `wrong-kind` is the token of a user on a route for operators, or the reverse.',
    reason:
      'Many `invalid` tokens mean an attack, or a key that a replica does not have. Many `expired` mean a client whose refresh fails.',
  },
  passwordHashDuration: {
    name: 'tenantry_password_hash_duration_seconds',
    kind: 'histogram',
    labels: ['act'],
    values: { act: ['hash', 'verify'] },
    buckets: HASH_BUCKETS,
    help: 'Time in seconds that one password hash took, without the wait for its turn.',
    reason: 'Hashing is the most expensive act of the service: when it slows down, the processor is busy.',
  },
  passwordHashesRefused: {
    name: 'tenantry_password_hashes_refused_total',
    kind: 'counter',
    labels: [],
    values: {},
    help: 'Hashes that were refused because too many waited, or because the wait was too long. The request got 503.',
    reason: 'Sign-ins are refused although the passwords may be right: a flood, or too little processor.',
  },
  rateLimited: {
    name: 'tenantry_rate_limited_total',
    kind: 'counter',
    labels: ['limit'],
    values: { limit: [...rateLimits, 'tenant-requests', 'tenant-connections', 'other'] },
    help: 'Answers with the status 429, each once, by the limit that was reached. `failures-…` are the limits on failed passwords. `other` is a limit without a name here, which should not happen.',
    reason: 'Which limit clients reach: a client that must slow down, an attack, or a limit that is too low.',
  },
  tenantCreations: {
    name: 'tenantry_tenant_creations_total',
    kind: 'counter',
    labels: ['source', 'outcome'],
    values: { source: ['standby', 'template', 'adoption'], outcome: ['success', 'failed'] },
    help: 'Tenants that this replica made, or could not make: from a standby database, from the template, or by the adoption of a database. Each is counted when its operation ends, also after the request was answered with `operation-unfinished`. A request that the client must change is not counted.',
    reason:
      'A failure here is a customer who could not be added. Creations from the template mean that the standby databases were used up.',
  },
  tenantCreationDuration: {
    name: 'tenantry_tenant_creation_duration_seconds',
    kind: 'histogram',
    labels: ['source'],
    values: { source: ['standby', 'template', 'adoption'] },
    buckets: CREATION_BUCKETS,
    help: 'Time in seconds from the request until the tenant was made, also if another worker made it. Failed attempts are not measured.',
    reason: 'How long a new customer waits, and whether a server is slow at making databases.',
  },
  operationsEnded: {
    name: 'tenantry_operations_ended_total',
    kind: 'counter',
    labels: ['kind', 'outcome'],
    help: 'Operations (work of more than one step) that ended on this replica. `undone`: a step failed, and what was done is undone. `abandoned`: an operator ended it.',
    reason: 'Operations that end as `undone` are acts that customers or jobs did not get.',
  },
  operationDuration: {
    name: 'tenantry_operation_duration_seconds',
    kind: 'histogram',
    labels: ['kind'],
    buckets: OPERATION_BUCKETS,
    help: 'Time in seconds from the record of an operation until it was done or undone, with the time in which it waited.',
    reason: 'How long an act really takes, also after its request was answered.',
  },
  readCacheEvents: {
    name: 'tenantry_read_cache_events_total',
    kind: 'counter',
    labels: ['event'],
    values: {
      event: [
        'hit',
        'filled',
        'not-filled',
        'shared',
        'dirty',
        'unavailable',
        'written',
        'switched-off',
        'waited',
        'refused',
      ],
    },
    help: 'What happened to reads and writes of cached routes. Reads: `hit`, `shared` (waited for the same load), `filled`, `not-filled` (a write came between, or the store is full), `dirty` (a write was under way), `unavailable` (nothing can be cached now). Writes: `written` (the answer of the write was stored), `switched-off` (could not invalidate, so the tenant is not cached for a while), `waited`, `refused` (503).',
    reason: 'The part of the reads that needs no database, and what the cache costs writes.',
  },
  jobRuns: {
    name: 'tenantry_job_runs_total',
    kind: 'counter',
    labels: ['job', 'outcome'],
    help: 'Runs of background jobs on this replica. A run that another replica has at that moment is not counted.',
    reason: 'A job that fails again and again leaves work undone.',
  },
  jobDuration: {
    name: 'tenantry_job_duration_seconds',
    kind: 'histogram',
    labels: ['job'],
    buckets: JOB_BUCKETS,
    help: 'Time in seconds of one run of a background job, failed or not.',
    reason: 'A job that takes longer each time will not keep up with the fleet.',
  },
} as const satisfies Record<string, MetricDefinition>;

/** The objects that count, by the names of their definitions. */
export type Instruments = {
  readonly [Key in keyof typeof eventMetrics]: Instrument<(typeof eventMetrics)[Key]>;
};

export function createInstruments(metrics: Metrics): Instruments {
  const made = Object.entries(eventMetrics).map(([key, definition]) => [
    key,
    metrics.instrument<MetricDefinition>(definition),
  ]);
  return Object.fromEntries(made) as Instruments;
}

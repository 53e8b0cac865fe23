// The schema of the log: every field that a line can have. docs/reference/log.md is generated from it, and tests compare real
// lines. A name means one thing and has one type everywhere, and is the name of the label in metrics where there is one.

export type LogFieldType = 'string' | 'number' | 'boolean' | 'object' | 'list of strings';

export interface LogField {
  readonly type: LogFieldType;
  /** Whether it can also be null. */
  readonly nullable?: true;
  /** What it is, with its unit. */
  readonly meaning: string;
  /** Which lines have it. */
  readonly lines: string;
  /** The label in metrics, if it has another name there. */
  readonly label?: string;
}

const REQUESTS = 'requests and their events';

export const logFields = {
  level: { type: 'string', meaning: 'fatal, error, warn, info, debug or trace', lines: 'all' },
  time: { type: 'string', meaning: "ISO 8601 UTC, by the replica's clock", lines: 'all' },
  msg: { type: 'string', meaning: 'what happened', lines: 'all' },

  reqId: { type: 'string', meaning: 'the request id, as in `X-Request-Id` and `requestId`', lines: REQUESTS },
  traceId: {
    type: 'string',
    meaning: 'the trace id of a valid `traceparent`: 32 lower-case hexadecimal digits',
    lines: 'requests that came with one, and their events',
  },
  method: { type: 'string', meaning: 'the HTTP method', lines: 'requests, and events of refusals' },
  route: {
    type: 'string',
    meaning: "the route's pattern, such as `/users/:id`; `none` if no route has the address",
    lines: 'requests, and events of refusals',
  },
  status: { type: 'number', meaning: 'the HTTP status', lines: 'answered requests' },
  code: { type: 'string', meaning: 'the code of the problem document', lines: 'requests answered with an error' },
  duration: {
    type: 'number',
    meaning: 'ms from the arrival of the head to the end of the answer; of an overload, ms from its start to its end',
    lines: 'requests; the end of an overload',
  },
  turn: { type: 'number', meaning: 'ms that the last turn of the event loop took', lines: 'the start of an overload' },
  limit: { type: 'number', meaning: 'ms that a turn may take', lines: 'the start of an overload' },
  refused: { type: 'number', meaning: 'requests that were refused', lines: 'the end of an overload' },
  address: { type: 'string', meaning: "the client's address, by `TRUST_PROXY`", lines: REQUESTS },
  tenantId: {
    type: 'string',
    meaning: 'the tenant of the caller, or the tenant that the line is about',
    lines: 'requests of users; lines about a tenant',
    label: 'tenant',
  },
  userId: { type: 'string', meaning: 'the user who called', lines: 'requests of users, and their events' },
  operatorId: {
    type: 'string',
    meaning: 'the operator who called or signed in',
    lines: 'requests of operators, and their events',
  },
  err: {
    type: 'object',
    meaning: '`type`, and if known `code`, `message`, `stack` (frames) and `cause`, which has the same fields',
    lines: 'failures; at level debug also refused requests',
  },

  security: { type: 'boolean', meaning: 'always true', lines: 'security events' },
  event: { type: 'string', meaning: 'the name of the event (below)', lines: 'security events' },
  leftOut: {
    type: 'number',
    meaning: 'lines of the event that were left out since the last such line',
    lines: 'one a minute for each event, if lines were left out',
  },
  realm: { type: 'string', meaning: '`tenant` or `operator`: whose accounts', lines: 'events of sign-ins' },
  on: {
    type: 'string',
    meaning: 'what has too many failures: account, address or tenant',
    lines: 'events of throttled attempts',
  },
  targetId: { type: 'string', meaning: 'the account, role or row that the event is about', lines: 'some events' },
  sessionId: { type: 'string', meaning: 'a session', lines: 'some events, and changes that were heard' },
  sessions: { type: 'number', meaning: 'sessions that were ended', lines: 'the event `sessions-ended`' },
  fields: { type: 'list of strings', meaning: 'names of the changed fields', lines: 'events of changes' },
  kid: { type: 'string', nullable: true, meaning: 'the id of a key in `ENCRYPTION_KEYS`', lines: 'events of keys' },
  column: { type: 'string', meaning: 'table and column of encrypted passwords', lines: 'events of keys' },
  rows: { type: 'number', meaning: 'rows of a database', lines: 'events of keys and of the audit' },

  reason: {
    type: 'string',
    meaning: 'a short word or code: an SQLSTATE, a system error code, or a word of the service',
    lines: 'events of refusals, breakers, lost connections, Redis; of a rollout a sentence',
  },
  operationId: {
    type: 'string',
    meaning: 'the operation, as in `GET /operations/:id`',
    lines: 'operations that wait, need a person, failed, or ended after they had to wait',
  },
  step: {
    type: 'string',
    meaning: 'the step of the work that failed, or at which an operation waits',
    lines: 'failures of work in steps',
  },
  name: { type: 'string', meaning: 'the name of a database, role or cluster', lines: 'lines about one' },
  clusterId: { type: 'string', meaning: 'the id of a cluster', lines: 'lines about a cluster' },
  cluster: { type: 'string', meaning: '`host:port` of a PostgreSQL server', lines: 'lines about a server' },
  host: { type: 'string', meaning: 'the host of a server', lines: 'PostgreSQL servers that moved, and Redis' },
  port: { type: 'number', meaning: 'the port of a server', lines: 'PostgreSQL servers that moved, and Redis' },
  store: {
    type: 'string',
    meaning: '`redis:<run id>:<replication id>/<database>`, `memory:<replica>` or `none`',
    lines: 'a change of the store that answers are cached in',
  },
  connections: { type: 'number', meaning: 'connections that were retired', lines: 'servers that moved' },
  kind: {
    type: 'string',
    meaning: 'what an operation does, what is budgeted (`tenants`, `reserve`), or what changed',
    lines: 'operations, budgets of servers, and changes that were heard',
  },
  room: { type: 'number', meaning: 'connections that a server allows for now', lines: 'budgets of servers' },
  scope: { type: 'string', meaning: '`tenant` or `cluster`', lines: 'breakers' },
  key: { type: 'string', meaning: "the tenant's id, or `host:port`", lines: 'breakers' },
  state: {
    type: 'string',
    meaning: '`open` or `closed`; of a rollout as in `GET /rollouts/:id`',
    lines: 'breakers; rollouts that have ended',
  },
  openFor: { type: 'number', meaning: 'ms that the breaker was open', lines: 'breakers' },
  probes: { type: 'number', meaning: 'probes while the breaker was open', lines: 'breakers' },
  job: { type: 'string', meaning: 'the name of a job', lines: 'jobs that fail' },
  metric: { type: 'string', meaning: 'the name of a metric', lines: 'metrics that could not be read' },
  ended: {
    type: 'object',
    meaning: 'how many sessions of database roles were ended, by reason',
    lines: 'relief of the NOTIFY queue',
  },
  usage: { type: 'number', meaning: 'how full the NOTIFY queue is, from 0 to 1', lines: 'relief of the NOTIFY queue' },
  migrations: { type: 'list of strings', meaning: 'the migrations that have run', lines: 'migrations of the registry' },
  report: {
    type: 'object',
    meaning: 'what the migration did, in counts and lists',
    lines: 'the end of `npm run migrate`',
  },
  rolloutId: { type: 'string', meaning: 'the rollout, as in `GET /rollouts/:id`', lines: 'rollouts' },
  wave: { type: 'number', meaning: 'the wave of a rollout that runs: 0 is the canary', lines: 'rollouts' },
  schemaVersion: {
    type: 'string',
    nullable: true,
    meaning: "the newest migration of a tenant's database; null before `0008_schema_version`",
    lines: 'tenants that are not served',
  },
  needs: {
    type: 'string',
    nullable: true,
    meaning: 'the newest migration that a build must know to work with the database',
    lines: 'tenants that are not served',
  },
  served: {
    type: 'object',
    meaning: 'the `oldest` and the `newest` schema of tenants that this build serves',
    lines: 'tenants that are not served',
  },
  done: { type: 'number', meaning: 'tenants that are migrated, or have failed', lines: 'migrations' },
  all: { type: 'number', meaning: 'tenants to migrate', lines: 'migrations' },
  signal: { type: 'string', meaning: 'the signal that the process got', lines: 'signals' },
  logLevel: { type: 'string', meaning: 'the level of the log from now on', lines: 'changes of the level' },
  until: { type: 'string', meaning: 'when the level of `LOG_LEVEL` is back', lines: 'a raised level' },
} as const satisfies Readonly<Record<string, LogField>>;

/** @returns what is wrong with a line, in words; empty if every field is in the schema and has its type */
export function faultsOf(line: Readonly<Record<string, unknown>>): readonly string[] {
  const known: Readonly<Record<string, LogField>> = logFields;
  return Object.entries(line).flatMap(([name, value]) => {
    const field = known[name];
    if (!field) return [`${name} is not in the schema`];
    return fits(field, value) ? [] : [`${name} is no ${field.type}: ${JSON.stringify(value)}`];
  });
}

function fits({ type, nullable }: LogField, value: unknown): boolean {
  if (value === null) return nullable === true;
  if (type === 'list of strings') return Array.isArray(value) && value.every((item) => typeof item === 'string');
  return typeof value === type && !Array.isArray(value);
}

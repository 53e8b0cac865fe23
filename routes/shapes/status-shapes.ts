// The answer of GET /status.
import { z } from 'zod';
import { itemStates, rolloutStates, type ItemState } from '../../db/registry/rollouts/rollouts-table.js';
import { PURGE } from '../../db/registry/status-queries.js';
import { operationStates } from '../../db/registry/operations/operations-table.js';
import { operationKinds } from '../../src/operations/runner/operation-kinds.js';
import { fleetStates, partNames } from '../../src/status/status-types.js';
import { answerId, timestamp, whole } from './fields.js';

const ms = z.number();

const part = 'Null if it could not be read; `unreadable` says why.';

const replicaId = z.string().meta({ description: 'The id of one start of the process.' });

const slots = z.object({ tenants: whole, reserve: whole });

const Breaker = z.object({
  scope: z.enum(['tenant', 'cluster']),
  key: z.string().meta({ description: "The tenant's id, or the server's host and port." }),
  state: z.enum(['closed', 'open', 'half-open']),
  reason: z.string().optional().meta({ description: 'A SQLSTATE, a system error code or a short text.' }),
  openFor: ms.optional().meta({ description: 'Milliseconds since the breaker opened.' }),
  opened: whole.meta({ description: 'How often the breaker has opened.' }),
});

const Here = z.object({
  id: replicaId,
  version: z.string().meta({ description: 'The version of the build.' }),
  schemaVersion: z.string().meta({ description: 'The schema version that this build gives to tenant databases.' }),
  clockSkew: ms.nullable().meta({
    description:
      "Milliseconds by which the replica's clock is ahead of the registry's, as far as that is certain; null if it is not known.",
  }),
  notReady: z.string().nullable().meta({ description: 'Why the replica takes no requests; null if it is ready.' }),
  feed: z.object({
    live: z.boolean().meta({ description: 'Whether the replica hears of every change within half a second.' }),
    notifyQueueUsage: z.number().meta({ description: "How full the registry's NOTIFY queue is, from 0 to 1." }),
  }),
  redis: z
    .object({
      available: z.boolean(),
      since: ms.meta({ description: 'Milliseconds since `available` last changed.' }),
      reason: z.string().nullable().meta({ description: 'Why Redis is not available.' }),
    })
    .nullable()
    .meta({ description: 'Null when no Redis is configured.' }),
  registry: z
    .object({ connections: whole, idle: whole, waiting: whole })
    .meta({ description: 'Connections to the registry for requests, and requests that wait for one.' }),
  breakers: z.object({
    clusters: whole.meta({ description: 'Servers whose requests are refused.' }),
    tenants: whole.meta({ description: 'Tenants whose requests are refused.' }),
    open: z.array(Breaker).meta({ description: 'At most 20 of them.' }),
  }),
});

const Tenants = z.object({
  total: whole,
  byStatus: z.object({
    provisioning: whole,
    active: whole,
    suspended: whole,
    deleted: whole,
    deleting: whole,
  }),
  bySchemaVersion: z.array(
    z.object({
      version: z.string(),
      tenants: whole,
      comparedToThisBuild: z.enum(['current', 'behind', 'newer']),
    }),
  ),
  behind: whole.meta({ description: 'Tenants with an older schema than the answering build; run the migration.' }),
  newer: whole.meta({ description: 'Tenants with a newer schema than the answering build.' }),
});

const Work = z.object({
  kind: z.string().meta({
    description: `The kind of the operations: ${operationKinds.join(', ')}, or a kind of a newer build. \`${PURGE}\`: deleted tenants whose grace time is over, and whose removal has not begun.`,
  }),
  count: whole,
  states: z.partialRecord(z.enum(operationStates), whole).meta({ description: 'Operations by state.' }),
  oldestFor: ms.meta({ description: 'Milliseconds since the oldest began, or became due.' }),
  late: whole.meta({ description: 'How many have not ended within ten minutes, or need a person.' }),
  needsPerson: whole.meta({
    description: 'How many have stopped until a person acts, or have not ended within an hour.',
  }),
  oldest: z
    .array(answerId)
    .readonly()
    .meta({
      description: `The ids of operations, at most 5: those that have stopped first, then the oldest. For \`${PURGE}\` the ids of tenants.`,
    }),
});

const Reports = z.object({
  counts: z.object({
    evidence: whole.meta({ description: 'Databases of tenants whose mark and row do not agree.' }),
    orphan: whole.meta({ description: 'Databases and roles that may belong to a tenant, and that no row names.' }),
  }),
  oldest: z
    .array(
      z.object({
        kind: z.enum(['evidence', 'orphan']),
        tenantId: answerId.nullable(),
        database: z.string().meta({ description: 'The name of the database or role.' }),
        why: z.string(),
        reportedFor: ms.meta({ description: 'Milliseconds since the first report.' }),
      }),
    )
    .meta({ description: 'At most 20, the oldest first.' }),
});

const Cluster = z.object({
  id: answerId,
  name: z.string(),
  host: z.string(),
  port: whole,
  region: z.string().nullable(),
  accepting: z.boolean().meta({ description: 'Whether new tenants are placed on this cluster.' }),
  tenants: whole,
  budget: slots.meta({ description: 'The most connections that all replicas open together.' }),
  leased: slots.meta({ description: 'Connections that all replicas together may open.' }),
  used: slots.meta({ description: 'Connections that all replicas together have open; up to 5 seconds old.' }),
  wanted: slots.meta({ description: 'Further connections for which requests wait.' }),
  standby: z.object({ ready: whole, making: whole, wanted: whole }).meta({
    description:
      'Standby databases: ready with the schema of the answering build, being made or dropped, and the number to keep ready.',
  }),
  breaker: z.enum(['closed', 'open', 'half-open']).meta({ description: "The answering replica's breaker." }),
  answers: z.boolean().nullable().meta({
    description:
      'Whether the server answered the answering replica within the last 10 seconds; null if it was not asked.',
  }),
  unreachable: z.string().nullable().meta({ description: 'Why the server did not answer.' }),
});

const Replicas = z.object({
  alive: whole,
  silent: whole.meta({ description: 'Replicas that stopped without notice less than an hour ago.' }),
  list: z
    .array(
      z.object({
        id: replicaId,
        version: z.string(),
        node: z.string().meta({ description: 'The version of Node.js.' }),
        host: z.string().meta({ description: "The machine's name." }),
        startedAt: timestamp,
        seenAt: timestamp.meta({ description: "When the replica last wrote, by the registry's clock." }),
        silentFor: ms.meta({ description: 'Milliseconds since then.' }),
        alive: z.boolean().meta({ description: 'Whether the replica wrote within the last 15 seconds.' }),
        clockSkew: ms.nullable(),
        notReady: z.string().nullable(),
      }),
    )
    .meta({ description: 'At most 200; the one that wrote last comes first. A replica that stops in order is gone.' }),
});

const Job = z.object({
  name: z.string(),
  every: ms.meta({ description: 'Milliseconds between the end of a run and the next run on one replica.' }),
  running: z
    .array(z.object({ replicaId, runningFor: ms }))
    .meta({ description: 'The replica that runs the job now, and since how many milliseconds.' }),
  lastRunAgo: ms.nullable().meta({ description: 'Milliseconds since the last run ended, on any replica.' }),
  lastRunOn: replicaId.nullable(),
  lastDuration: ms.nullable(),
  lastSuccessAgo: ms.nullable(),
  failing: z
    .array(
      z.object({
        replicaId,
        failuresInARow: whole,
        lastError: z.string(),
        lastSuccessAgo: ms.nullable(),
      }),
    )
    .meta({ description: 'Replicas on which the last run failed, with the reason.' }),
});

const Rollout = z.object({
  id: answerId,
  target: z.string().meta({ description: 'The schema version that it brings the tenants to.' }),
  state: z.enum(rolloutStates),
  wave: whole.meta({ description: 'The wave that runs; 0 is the canary.' }),
  reason: z.string().nullable().meta({ description: 'Why it stopped.' }),
  items: z
    .object(Object.fromEntries(itemStates.map((state) => [state, whole])) as Record<ItemState, typeof whole>)
    .meta({ description: 'Tenants by the state of their items.' }),
});

const Passwords = z.object({
  due: whole.nullable().meta({
    description: 'Database passwords that are due for a change; null if their age does not matter.',
  }),
  keys: z.array(z.object({ kid: z.string().nullable(), held: z.boolean(), current: z.boolean(), rows: whole })),
  toEncryptAgain: whole.meta({ description: 'Passwords that the current key does not encrypt yet.' }),
  unreadable: whole.meta({ description: 'Passwords whose key the answering replica does not have.' }),
});

export const Status = z
  .object({
    state: z.enum(fleetStates).meta({
      description:
        '`degraded`: something is wrong that the service works around or that ends by itself. `needs-person`: something stays as it is until a person acts.',
    }),
    reasons: z.array(z.string()).meta({ description: 'Why the state is not `ok`. What needs a person comes first.' }),
    unreadable: z
      .array(z.object({ part: z.enum(partNames), reason: z.string() }))
      .meta({ description: 'The parts that could not be read in time, and why.' }),
    here: Here.meta({ description: 'The answering replica.' }),
    tenants: Tenants.nullable().meta({ description: part }),
    work: z
      .array(Work)
      .readonly()
      .nullable()
      .meta({ description: `Operations that have not ended, by kind. ${part}` }),
    reports: Reports.nullable().meta({
      description: `Databases that are left as they are until a person acts. ${part}`,
    }),
    clusters: z.array(Cluster).nullable().meta({ description: part }),
    replicas: Replicas.nullable().meta({ description: part }),
    jobs: z.array(Job).meta({
      description: 'Jobs of all replicas. If `unreadable` names them, only those of the answering replica.',
    }),
    rollout: Rollout.nullable().meta({
      description: 'The rollout that is running, paused or stopped. Null if there is none, or if it could not be read.',
    }),
    passwords: Passwords.nullable().meta({
      description: `Database passwords: changes that are due, and the keys that encrypt them. ${part}`,
    }),
  })
  .meta({ id: 'Status' });

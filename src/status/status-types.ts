// The answer of GET /status. Times are in ms; `…Ago` and `…For` are the time since then, by the registry's clock. A part that could
// not be read is null, and `unreadable` says why.
import type { ReportKind } from '../../db/registry/fleet/fleet-tables.js';
import type { TenantStatus } from '../../db/registry/registry-schema.js';
import type { RolloutNumbers } from '../../db/registry/rollouts/rollout-numbers.js';
import type { ReplicaRow, UnfinishedWork } from '../../db/registry/status-queries.js';
import type { BreakerStatus } from '../connections/breaker-types.js';

export const partNames = [
  'tenants',
  'work',
  'reports',
  'clusters',
  'replicas',
  'jobs',
  'rollout',
  'passwords',
] as const;
export type PartName = (typeof partNames)[number];

/**
 * - `ok`: nothing to do.
 * - `degraded`: something is wrong that the service works around, or that ends by itself.
 * - `needs-person`: something stays as it is until a person acts.
 */
export const fleetStates = ['ok', 'degraded', 'needs-person'] as const;
export type FleetState = (typeof fleetStates)[number];

export interface FleetStatus {
  state: FleetState;
  /** Why the state is not `ok`; what needs a person comes first. */
  reasons: string[];
  unreadable: { part: PartName; reason: string }[];
  here: HereStatus;
  tenants: TenantsStatus | null;
  work: readonly UnfinishedWork[] | null;
  reports: ReportsStatus | null;
  clusters: ClusterStatus[] | null;
  replicas: ReplicasStatus | null;
  /** If the registry cannot be read: the jobs as the answering replica ran them. */
  jobs: JobStatus[];
  /** Null if none is under way, too. */
  rollout: RolloutNumbers | null;
  passwords: PasswordsStatus | null;
}

/** The answering replica. */
export interface HereStatus {
  id: string;
  version: string;
  schemaVersion: string;
  clockSkew: number | null;
  notReady: string | null;
  feed: { live: boolean; notifyQueueUsage: number };
  redis: { available: boolean; since: number; reason: string | null } | null;
  registry: { connections: number; idle: number; waiting: number };
  /** Breakers that are not closed: how many, and some of them. */
  breakers: { clusters: number; tenants: number; open: BreakerStatus[] };
}

export interface TenantsStatus {
  total: number;
  byStatus: Record<TenantStatus, number>;
  bySchemaVersion: { version: string; tenants: number; comparedToThisBuild: 'current' | 'behind' | 'newer' }[];
  /** Tenants that are not being removed, and whose schema is behind or newer. */
  behind: number;
  newer: number;
}

export interface ReportsStatus {
  counts: Record<ReportKind, number>;
  oldest: { kind: ReportKind; tenantId: string | null; database: string; why: string; reportedFor: number }[];
}

interface Slots {
  tenants: number;
  reserve: number;
}

export interface ClusterStatus {
  id: string;
  name: string;
  host: string;
  port: number;
  region: string | null;
  accepting: boolean;
  tenants: number;
  budget: Slots;
  leased: Slots;
  used: Slots;
  wanted: Slots;
  standby: { ready: number; making: number; wanted: number };
  breaker: BreakerStatus['state'];
  answers: boolean | null;
  unreachable: string | null;
}

export interface ReplicasStatus {
  alive: number;
  silent: number;
  list: (ReplicaRow & { alive: boolean })[];
}

export interface JobStatus {
  name: string;
  every: number;
  running: { replicaId: string; runningFor: number }[];
  lastRunAgo: number | null;
  lastRunOn: string | null;
  lastDuration: number | null;
  lastSuccessAgo: number | null;
  failing: { replicaId: string; failuresInARow: number; lastError: string; lastSuccessAgo: number | null }[];
}

export interface PasswordsStatus {
  /** Passwords that are due for a change and wait for the job; null if passwords are not changed by age. */
  due: number | null;
  keys: { kid: string | null; held: boolean; current: boolean; rows: number }[];
  /** Passwords that the job still has to encrypt again with the current key. */
  toEncryptAgain: number;
  /** Passwords that the answering replica cannot decrypt. */
  unreadable: number;
}

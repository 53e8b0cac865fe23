// The fleet in one answer, for operators. Every part has a deadline of its own and is shared by all requests of a moment, so a part
// that hangs delays no other, and a flood of requests does not load the registry.
import type { Kysely } from 'kysely';
import type { ReportKind } from '../../db/registry/fleet/fleet-tables.js';
import type { Registry, TenantStatus } from '../../db/registry/registry-schema.js';
import {
  countClusters,
  countDueRotations,
  countTenants,
  countUnfinished,
  listReplicas,
  listReports,
  type ClusterCounts,
  type ReplicaRow,
  type TenantCount,
} from '../../db/registry/status-queries.js';
import { listJobs } from '../../db/registry/job-rows.js';
import { countRolloutUnderWay } from '../../db/registry/rollouts/rollout-numbers.js';
import { SILENT_AFTER } from '../../db/registry/replica-rows.js';
import { pingServer } from '../../db/server/cluster-inspection.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { ConnectionPool } from '../../db/driver/pool/pool.js';
import type { ClusterDirectory } from '../clusters/cluster-directory.js';
import type { ServerLooks } from '../clusters/server-looks.js';
import type { Breakers } from '../connections/breaker-types.js';
import type { JobState } from '../jobs/job-states.js';
import type { KeyUse } from '../operations/reencryption.js';
import type { Events } from '../replicas/events.js';
import type { Presence } from '../replicas/presence.js';
import type { SharedStore } from '../replicas/shared-store.js';
import { jobsStatus } from './job-status.js';
import { shareReading, type Part } from './shared-reading.js';
import type {
  ClusterStatus,
  FleetStatus,
  HereStatus,
  PartName,
  PasswordsStatus,
  ReplicasStatus,
  TenantsStatus,
} from './status-types.js';
import { verdictOn } from './verdict.js';

export interface FleetStatusReader {
  /** Never rejects, and never waits for longer than the deadline of a part and the look at a server after it. */
  read(): Promise<FleetStatus>;
  /** How many replicas wrote lately; undefined if that cannot be read. Shares the reading of `read`. */
  replicasAlive(): Promise<number | undefined>;
}

export interface FleetStatusDeps {
  /** A pool that is free while requests use all other connections. */
  readonly registry: Kysely<Registry>;
  /** The pool that requests use, for its numbers. */
  readonly requestPool: Pick<ConnectionPool, 'stats'>;
  readonly presence: Pick<Presence, 'self'>;
  readonly events: Pick<Events, 'live' | 'queueUsage'>;
  readonly store: Pick<SharedStore, 'state'> | undefined;
  readonly breakers: Pick<Breakers, 'stats' | 'state'>;
  readonly directory: Pick<ClusterDirectory, 'peek'>;
  readonly looks: Pick<ServerLooks, 'at'>;
  readonly jobs: () => readonly JobState[];
  readonly keyUses: (registry: Kysely<Registry>) => Promise<readonly KeyUse[]>;
  /** The grace time (ms) of deleted tenants. */
  readonly grace: number;
  /** The age (ms) at which a password is changed; 0 means never. */
  readonly rotateAfter: number;
}

/**
 * Longest wait (ms) for a part, and for a server. The parts share two connections, and a connection may have to open first: both
 * together take 3.5 s if a round trip takes 300 ms. A table that is locked fails its part after 1.5 s, by the pool's deadline.
 */
const DEADLINE = 4_500;

const COUNTS = { lasts: 2_000, deadline: DEADLINE };
const LISTS = { lasts: 1_000, deadline: DEADLINE };

/** A look at a server opens a connection. */
const LOOKS = { lasts: 10_000, deadline: DEADLINE };

/** Reads every password in the registry: with 10,000 tenants, 50 ms of a processor. */
const PASSWORDS = { lasts: 60_000, deadline: DEADLINE };

/** Work that has not ended after these times (ms) is late, and then needs a person: it is tried again every 30 seconds at least. */
export const UNFINISHED_FOR = { lateAfter: 10 * 60_000, overdueAfter: 60 * 60_000 };

/** The most entries of each list. */
const MOST = { replicas: 200, jobs: 200, reports: 20, versions: 50, breakers: 20, keys: 50 } as const;

export function createFleetStatus(deps: FleetStatusDeps): FleetStatusReader {
  const { registry } = deps;
  const readReplicas = shareReading(() => listReplicas(registry, MOST.replicas), LISTS);
  const readJobs = shareReading(() => listJobs(registry, MOST.jobs), LISTS);
  const readReports = shareReading(() => listReports(registry, MOST.reports), COUNTS);
  const readClusters = shareReading(() => countClusters(registry, latestVersion(tenantMigrations)), COUNTS);
  const readTenants = shareReading(() => countTenants(registry), COUNTS);
  const ages = { grace: deps.grace, ...UNFINISHED_FOR };
  const readWork = shareReading(() => countUnfinished(registry, ages), COUNTS);
  const readRollout = shareReading(() => countRolloutUnderWay(registry), COUNTS);
  const readPasswords = shareReading(async () => {
    const due = deps.rotateAfter > 0 ? await countDueRotations(registry, deps.rotateAfter) : null;
    return { due, uses: await deps.keyUses(registry) };
  }, PASSWORDS);
  /** By `host:port`. */
  const servers = new Map<string, () => Promise<Part<boolean>>>();

  function answers(cluster: string): Promise<Part<boolean>> {
    let read = servers.get(cluster);
    if (!read) {
      read = shareReading(async () => {
        const server = deps.looks.at(cluster);
        if (server) await pingServer(server);
        return server !== undefined;
      }, LOOKS);
      servers.set(cluster, read);
    }
    return read();
  }

  async function clustersOf(rows: readonly ClusterCounts[]): Promise<ClusterStatus[]> {
    const names = new Set(rows.map(({ host, port }) => `${host}:${port}`));
    for (const name of servers.keys()) if (!names.has(name)) servers.delete(name);
    return Promise.all(
      rows.map(async (row) => {
        const place = `${row.host}:${row.port}`;
        const server = await answers(place);
        // A cluster that this replica has not read yet is not known to answer or not.
        const known = server.value ?? true;
        return {
          ...clusterStatus(row),
          // The configuration has the budget of the default cluster.
          budget: deps.directory.peek(row)?.budget ?? { tenants: row.connectionBudget, reserve: row.connectionReserve },
          breaker: deps.breakers.state('cluster', place)?.state ?? 'closed',
          answers: known ? server.unreadable === undefined : null,
          unreachable: server.unreadable ?? null,
        };
      }),
    );
  }

  function here(): HereStatus {
    const { id, version, clockSkew, notReady } = deps.presence.self();
    const open = deps.breakers.stats().breakers.filter(({ state }) => state !== 'closed');
    const redis = deps.store?.state;
    const { total, idle, waiting } = deps.requestPool.stats();
    return {
      id,
      version,
      schemaVersion: latestVersion(tenantMigrations),
      clockSkew: clockSkew === undefined ? null : Math.round(clockSkew),
      notReady: notReady ?? null,
      feed: { live: deps.events.live, notifyQueueUsage: deps.events.queueUsage },
      redis: redis
        ? { available: redis.available, since: Math.round(redis.since), reason: redis.reason ?? null }
        : null,
      registry: { connections: total, idle, waiting },
      breakers: {
        clusters: open.filter(({ scope }) => scope === 'cluster').length,
        tenants: open.filter(({ scope }) => scope === 'tenant').length,
        open: open.slice(0, MOST.breakers),
      },
    };
  }

  return {
    async replicasAlive() {
      const { value } = await readReplicas();
      return value && replicasStatus(value, deps.presence.self()).alive;
    },

    async read() {
      // In this order: what reads no row of a tenant is answered also while the table of tenants is locked.
      const reading = [
        readReplicas(),
        readJobs(),
        readRollout(),
        readReports(),
        readClusters(),
        readTenants(),
        readWork(),
      ] as const;
      const [replicas, jobs, rollout, reports, clusters, tenants, work] = await Promise.all(reading);
      const [passwords, clusterList]: [Awaited<ReturnType<typeof readPasswords>>, ClusterStatus[] | null] =
        await Promise.all([
          tenants.unreadable === undefined ? readPasswords() : { unreadable: tenants.unreadable },
          clusters.value ? clustersOf(clusters.value) : null,
        ]);
      const unreadable = Object.entries({
        tenants,
        work,
        reports,
        clusters,
        replicas,
        jobs,
        rollout,
        passwords,
      }).flatMap(([part, { unreadable: reason }]) =>
        reason === undefined ? [] : [{ part: part as PartName, reason }],
      );
      const parts = {
        unreadable,
        here: here(),
        tenants: tenants.value ? tenantsStatus(tenants.value) : null,
        work: work.value ?? null,
        reports: reports.value
          ? { counts: { ...NO_REPORTS, ...Object.fromEntries(reports.value.counts) }, oldest: reports.value.oldest }
          : null,
        clusters: clusterList,
        replicas: replicas.value ? replicasStatus(replicas.value, deps.presence.self()) : null,
        jobs: jobsStatus(jobs.value, deps.presence.self().id, deps.jobs()),
        rollout: rollout.value ?? null,
        passwords: passwords.value ? passwordsStatus(passwords.value.due, passwords.value.uses) : null,
      };
      return { ...verdictOn(parts), ...parts };
    },
  };
}

const NO_REPORTS: Record<ReportKind, number> = { evidence: 0, orphan: 0 };
const NO_TENANTS: Record<TenantStatus, number> = { provisioning: 0, active: 0, suspended: 0, deleted: 0, deleting: 0 };

function tenantsStatus(counts: readonly TenantCount[]): TenantsStatus {
  const current = latestVersion(tenantMigrations);
  const byStatus = { ...NO_TENANTS };
  const versions = new Map<string, number>();
  let [behind, newer] = [0, 0];
  for (const { status, schemaVersion, tenants } of counts) {
    byStatus[status] += tenants;
    versions.set(schemaVersion, (versions.get(schemaVersion) ?? 0) + tenants);
    if (status === 'deleting') continue;
    if (schemaVersion < current) behind += tenants;
    if (schemaVersion > current) newer += tenants;
  }
  return {
    total: Object.values(byStatus).reduce((sum, tenants) => sum + tenants, 0),
    byStatus,
    bySchemaVersion: [...versions].slice(-MOST.versions).map(([version, tenants]) => ({
      version,
      tenants,
      comparedToThisBuild: version === current ? 'current' : version < current ? 'behind' : 'newer',
    })),
    behind,
    newer,
  };
}

function clusterStatus(row: ClusterCounts): Omit<ClusterStatus, 'budget' | 'breaker' | 'answers' | 'unreachable'> {
  const { id, name, host, port, region, accepting, tenants } = row;
  return {
    id,
    name,
    host,
    port,
    region,
    accepting,
    tenants,
    leased: { tenants: row.leasedTenants, reserve: row.leasedReserve },
    used: { tenants: row.usedTenants, reserve: row.usedReserve },
    wanted: { tenants: row.wantedTenants, reserve: row.wantedReserve },
    standby: { ready: row.standbyReady, making: row.standbyMaking, wanted: row.standbyWanted },
  };
}

function replicasStatus(
  rows: readonly ReplicaRow[],
  { id, clockSkew, notReady }: ReturnType<Presence['self']>,
): ReplicasStatus {
  // What the answering replica knows of itself is newer than its row.
  const own = { clockSkew: clockSkew === undefined ? null : Math.round(clockSkew), notReady: notReady ?? null };
  const list = rows.map((row) => ({
    ...row,
    ...(row.id === id && own),
    alive: row.silentFor <= SILENT_AFTER,
  }));
  const alive = list.filter((replica) => replica.alive).length;
  return { alive, silent: list.length - alive, list };
}

function passwordsStatus(due: number | null, uses: readonly KeyUse[]): PasswordsStatus {
  const rowsOf = (of: (use: KeyUse) => boolean): number => uses.filter(of).reduce((sum, { rows }) => sum + rows, 0);
  return {
    due,
    keys: uses.slice(0, MOST.keys).map(({ kid, held, current, rows }) => ({ kid, held, current, rows })),
    toEncryptAgain: rowsOf(({ held, current }) => held && !current),
    unreadable: rowsOf(({ held }) => !held),
  };
}

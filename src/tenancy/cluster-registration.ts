// Registering clusters, changing, draining and removing them. A server is looked at before it is let in, so that a tenant is never
// put on one that cannot hold it.
import { isDeepStrictEqual } from 'node:util';
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/audit.js';
import {
  CLUSTER_NAME_CONSTRAINT,
  CLUSTER_PLACE_CONSTRAINT,
  claimTenantsAt,
  deleteCluster,
  findCluster,
  loadOfClusters,
  lockCluster,
  registerCluster,
  updateCluster,
  withdrawStandbyDatabases,
  type ClusterLoad,
  type ClusterRecord,
  type ClusterValues,
} from '../../db/central/clusters.js';
import type { Registry } from '../../db/central/schema.js';
import type { ConnectionSettings, PoolLimits } from '../../db/client.js';
import type { Destinations } from '../../db/destinations.js';
import { MAINTENANCE_DATABASE } from '../../db/cluster.js';
import { inspectCluster, type ClusterInspection } from '../../db/cluster-inspection.js';
import { DatabaseFault, violatedUniqueConstraint } from '../../db/errors.js';
import { newId } from '../../db/ids.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { auditAct } from '../auth/operator.js';
import { AppError } from '../errors.js';
import { tlsOf, type ClusterDirectory, type KnownCluster } from './cluster-directory.js';
import { canonicalHost } from './cluster-hosts.js';
import type { ClusterBudget } from './clusters.js';
import type { Envelope } from './envelope.js';
import type { TenantLocks } from './locks.js';
import { openProvisioner, type Provisioner } from './provisioner.js';
import type { Provisioners } from './provisioners.js';
import { roomWarning } from './server-room.js';
import type { StandbyDatabases } from './standby.js';
import { ensureTemplate } from './template.js';

/** A cluster as an operator describes it; the password in clear. */
export type NewCluster = ClusterValues;
export type ClusterChanges = {
  readonly [Key in keyof Omit<NewCluster, 'provisionerUser'>]?: NewCluster[Key] | undefined;
};

/** What was found of a server. */
export interface ClusterFindings {
  /** What keeps it from holding tenants, in sentences; none where it can. */
  readonly problems: readonly string[];
  /** What should be mended besides. */
  readonly warnings: readonly string[];
  /** Undefined where it could not be entered. */
  readonly inspection: ClusterInspection | undefined;
}

export interface ClusterRegistration {
  /**
   * Looks at the server, makes the template on it, and registers it. Audited.
   *
   * @throws AppError `cluster-host-not-allowed`, before anything is sent; `cluster-unusable`, `cluster-taken`
   */
  register(cluster: NewCluster, origin: AuditOrigin): Promise<{ cluster: ClusterRecord; warnings: readonly string[] }>;
  /**
   * Changes a cluster. Another place, other TLS and another password are tried before they count. Audited.
   *
   * @throws AppError `not-found`, `default-cluster`, `provisioner-password-needed`, `cluster-in-use`, and as `register` does
   */
  change(id: string, changes: ClusterChanges, origin: AuditOrigin): Promise<ClusterRecord>;
  /** Looks at the server as it is entered now. @throws AppError `not-found` */
  check(id: string): Promise<ClusterFindings>;
  /**
   * Puts no new tenants on it and drops the standby databases there, as many as there is time for. Audited. To be called
   * again where some are left.
   *
   * @returns what still stands on it
   * @throws AppError `not-found`; DatabaseFault where the cluster does not answer, when it accepts nothing any more
   */
  drain(id: string, origin: AuditOrigin): Promise<ClusterLoad>;
  /** Forgets a cluster that holds nothing. Audited. @throws AppError `not-found`, `default-cluster`, `cluster-in-use` */
  remove(id: string, origin: AuditOrigin): Promise<void>;
  /** How it is entered: of the default cluster what the configuration says. */
  settings: (row: ClusterRecord) => Pick<KnownCluster, 'isDefault' | 'user' | 'tls' | 'budget'>;
  /** Sees to it that the default cluster has its row, for whoever lists clusters. */
  ensureDefault(): Promise<unknown>;
}

/** The oldest PostgreSQL that is tried, as `server_version_num`. */
const OLDEST_VERSION = 150_000;

/** What clocks may differ by, ms: as much as tokens tolerate. */
const MAX_CLOCK_SKEW = 5_000;

/** Longest wait (ms) for a connection to a server that is looked at. */
const LOOK_DEADLINE = 5_000;

/** For this long (ms) a request drops standby databases. */
const DRAIN_FOR = 10_000;

export function createClusterRegistration(deps: {
  readonly registry: Kysely<Registry>;
  readonly directory: ClusterDirectory;
  readonly provisioners: Provisioners;
  readonly locks: TenantLocks;
  readonly standby: Pick<StandbyDatabases, 'drop'>;
  readonly installation: () => Promise<string>;
  /** Of provisioners' passwords. */
  readonly envelope: Envelope;
  /** Of a provisioner's pool; only its statement timeout counts here. */
  readonly limits: PoolLimits;
  readonly destinations: Destinations;
  /** Whether a host may be registered. */
  readonly isAllowed: (host: string) => boolean;
  /** Sees to it that the default cluster has its row. */
  readonly ensureDefault: () => Promise<unknown>;
  /** Told of each change, before it is answered. */
  readonly onChange: (clusterId: string) => Promise<void>;
}): ClusterRegistration {
  const { registry, directory, provisioners, locks, envelope, isAllowed } = deps;

  function demandAllowed(host: string): void {
    if (!isAllowed(host))
      throw new AppError('cluster-host-not-allowed', {
        detail: 'Register a host that CLUSTER_HOSTS lists, or the host of the default cluster.',
        issues: [{ path: '/host', message: 'is not on the list of allowed hosts' }],
      });
  }

  /** With connections of its own, past the budget: what is looked at may be no cluster yet, or have no connection left. */
  async function entering<T>(connection: ConnectionSettings, work: (opened: Provisioner) => Promise<T>): Promise<T> {
    const limits = { ...deps.limits, max: 1, acquireTimeout: LOOK_DEADLINE };
    const opened = openProvisioner(connection, limits, { destinations: deps.destinations, anyServer: true });
    try {
      return await work(opened);
    } finally {
      await opened.close();
    }
  }

  /** Looks at a server and makes the template on it. @returns warnings. @throws AppError `cluster-unusable` */
  async function prepare(connection: ConnectionSettings, budget: ClusterBudget): Promise<readonly string[]> {
    return entering(connection, async (opened) => {
      const { problems, warnings } = await look(opened, budget);
      if (problems.length > 0) throw new AppError('cluster-unusable', { detail: problems.join(' ') });
      try {
        const role = connection.user;
        await ensureTemplate({ ...opened, role }, tenantMigrations, await deps.installation());
      } catch (error) {
        throw new AppError('cluster-unusable', {
          detail: 'The template database could not be created on the server.',
          cause: error,
        });
      }
      return warnings;
    });
  }

  /** Before the answer, the others know of it and this process has read it. */
  async function tell(id: string): Promise<void> {
    await deps.onChange(id);
    await directory.refresh();
  }

  async function existing(id: string): Promise<ClusterRecord> {
    await deps.ensureDefault();
    const row = await findCluster(registry, id);
    if (!row) throw new AppError('not-found');
    return row;
  }

  return {
    async register(input, origin) {
      const cluster = { ...input, host: canonicalHost(input.host) };
      const { host, port, provisionerUser: user, provisionerPassword: password } = cluster;
      demandAllowed(host);
      await deps.ensureDefault();
      if (await directory.find({ host, port })) throw new AppError('cluster-taken');
      const connection = { host, port, user, password, tls: tlsOf(cluster), database: MAINTENANCE_DATABASE };
      const warnings = await prepare(connection, budgetOf(cluster));
      const id = newId();
      const sealed = envelope.seal(password, { id, host, port, user });
      const made = await taken(() =>
        registry.transaction().execute(async (trx) => {
          const row = await registerCluster(trx, id, { ...cluster, provisionerPassword: sealed });
          await claimTenantsAt(trx, id, host, port);
          const details = { name: row.name, place: `${host}:${port}` };
          await auditAct(trx, { ...origin, action: 'cluster.registered', target: { kind: 'cluster', id }, details });
          return row;
        }),
      );
      await tell(id);
      return { cluster: made, warnings };
    },

    async change(id, given, origin) {
      const row = await existing(id);
      const { provisionerPassword: password, ...others } = given;
      const changes = { ...others, ...(others.host !== undefined && { host: canonicalHost(others.host) }) };
      const entered = ['host', 'port', 'tls', 'tlsCa'] as const;
      const entersAnew = entered.some((key) => changes[key] !== undefined);
      const configured = ['connectionBudget', 'connectionReserve'] as const;
      if (
        directory.of(row).isDefault &&
        (entersAnew || password !== undefined || configured.some((key) => changes[key] !== undefined))
      )
        throw new AppError('default-cluster', {
          detail: 'Change the connection and the budget of the default cluster in the configuration.',
        });
      // Whoever can point a cluster elsewhere would otherwise have its password sent there.
      if (entersAnew && password === undefined)
        throw new AppError('provisioner-password-needed', {
          issues: [{ path: '/provisionerPassword', message: 'is needed to change host, port, tls or tlsCa' }],
        });
      const wanted = { ...row, ...definedOf(changes) };
      const { host, port, provisionerUser: user } = wanted;
      const moves = host !== row.host || port !== row.port;
      if (moves) {
        demandAllowed(host);
        await demandEmpty(registry, id);
        const there = await directory.find({ host, port });
        if (there && there.id !== id) throw new AppError('cluster-taken');
      }
      let sealed: string | undefined;
      if (password !== undefined) {
        const connection = { host, port, user, password, tls: tlsOf(wanted), database: MAINTENANCE_DATABASE };
        await prepare(connection, budgetOf(wanted));
        sealed = envelope.seal(password, { id, host, port, user });
      }
      const changed = await taken(() =>
        registry.transaction().execute(async (trx) => {
          const current = await lockCluster(trx, id);
          if (!current) throw new AppError('not-found');
          if (moves) await demandEmpty(trx, id);
          // The ciphertext is bound to the place and the user, which another change may have replaced meanwhile.
          const place = ({ host, port, provisionerUser }: ClusterRecord): unknown => [host, port, provisionerUser];
          if (!isDeepStrictEqual(place(current), place(row))) throw new AppError('cluster-in-use');
          const updated = await updateCluster(trx, id, { ...changes, provisionerPassword: sealed });
          if (!updated) throw new AppError('not-found');
          const fields = Object.entries(given).flatMap(([name, value]) => (value === undefined ? [] : [name]));
          const target = { kind: 'cluster', id } as const;
          await auditAct(trx, { ...origin, action: 'cluster.updated', target, details: { fields } });
          return updated;
        }),
      );
      await tell(id);
      return changed;
    },

    async check(id) {
      const { connection, budget } = directory.of(await existing(id));
      let settings: ConnectionSettings;
      try {
        settings = connection();
      } catch {
        const problem = 'The password of the provisioner cannot be decrypted. Set it again.';
        return { problems: [problem], warnings: [], inspection: undefined };
      }
      return entering(settings, (opened) => look(opened, budget));
    },

    async drain(id, origin) {
      const row = await existing(id);
      await registry.transaction().execute(async (trx) => {
        await updateCluster(trx, id, { accepting: false, standbyTarget: 0 });
        await auditAct(trx, { ...origin, action: 'cluster.drained', target: { kind: 'cluster', id } });
      });
      await tell(id);
      const standby = await withdrawStandbyDatabases(registry, id);
      const until = performance.now() + DRAIN_FOR;
      for (const left of standby) {
        if (performance.now() > until) break;
        const provisioner = await provisioners.at(row);
        // Whoever drops one ends what others run about it: under its lock nobody else does.
        await locks.hold(left.id, () => deps.standby.drop(left, row, provisioner));
      }
      return loadOf(registry, id);
    },

    async remove(id, origin) {
      const row = await existing(id);
      if (directory.of(row).isDefault) throw new AppError('default-cluster');
      await registry.transaction().execute(async (trx) => {
        const current = await lockCluster(trx, id);
        if (!current) throw new AppError('not-found');
        await demandEmpty(trx, id);
        await deleteCluster(trx, current);
        const details = { name: row.name, place: `${row.host}:${row.port}` };
        await auditAct(trx, { ...origin, action: 'cluster.removed', target: { kind: 'cluster', id }, details });
      });
      await tell(id);
    },

    settings: (row) => directory.of(row),
    ensureDefault: () => deps.ensureDefault(),
  };
}

/**
 * What an inspection means for a server that is to hold tenants.
 *
 * @param budget what the service is to open there
 */
export function judgeCluster(
  inspection: ClusterInspection,
  budget: ClusterBudget,
): Pick<ClusterFindings, 'problems' | 'warnings'> {
  const { role, superuser, canProvision, openDatabases, versionNumber, version, readOnly, clockSkew } = inspection;
  const problems = [
    versionNumber < OLDEST_VERSION && `PostgreSQL 15 or later is needed; this is ${version}.`,
    superuser && `The role "${role}" is a superuser: use one that is not (deploy/bootstrap.sql).`,
    !canProvision && `The role "${role}" needs CREATEDB and CREATEROLE.`,
    readOnly && 'The server does not accept writes: it is a standby, or read-only.',
    Math.abs(clockSkew) > MAX_CLOCK_SKEW &&
      `The server's clock is ${Math.round(clockSkew / 1_000)} s off. Synchronise both clocks by NTP.`,
  ];
  const warnings = [
    roomWarning(inspection, budget),
    openDatabases.length > 0 &&
      `Every role of the server may connect to ${openDatabases.join(', ')}. Run REVOKE ALL ON DATABASE … FROM PUBLIC.`,
  ];
  const said = (text: string | false | undefined): text is string => typeof text === 'string';
  return { problems: problems.filter(said), warnings: warnings.filter(said) };
}

async function look({ cluster }: Provisioner, budget: ClusterBudget): Promise<ClusterFindings> {
  try {
    const inspection = await inspectCluster(cluster);
    return { ...judgeCluster(inspection, budget), inspection };
  } catch (error) {
    if (!(error instanceof DatabaseFault)) throw error;
    return {
      problems: [`The service cannot connect to the server (${error.reason}).`],
      warnings: [],
      inspection: undefined,
    };
  }
}

async function loadOf(db: Kysely<Registry>, id: string): Promise<ClusterLoad> {
  return (await loadOfClusters(db, [id])).get(id) ?? { tenants: 0, standbyDatabases: 0 };
}

async function demandEmpty(db: Kysely<Registry>, id: string): Promise<void> {
  const { tenants, standbyDatabases } = await loadOf(db, id);
  if (tenants + standbyDatabases > 0)
    throw new AppError('cluster-in-use', {
      detail: `The cluster holds ${tenants} tenants and ${standbyDatabases} standby databases. It must be empty first.`,
    });
}

async function taken<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const constraint = violatedUniqueConstraint(error);
    if (constraint === CLUSTER_NAME_CONSTRAINT || constraint === CLUSTER_PLACE_CONSTRAINT)
      throw new AppError('cluster-taken');
    throw error;
  }
}

function budgetOf({ connectionBudget, connectionReserve }: ClusterValues): ClusterBudget {
  return { tenants: connectionBudget, reserve: connectionReserve };
}

function definedOf<T extends object>(changes: T): { [Key in keyof T]: Exclude<T[Key], undefined> } {
  return Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined)) as {
    [Key in keyof T]: Exclude<T[Key], undefined>;
  };
}

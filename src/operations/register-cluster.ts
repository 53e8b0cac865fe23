// Registers, changes, drains and removes clusters. A server is inspected before it is registered, so that no tenant is placed on
// a server that cannot hold it.
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import {
  claimTenantsAt,
  deleteCluster,
  findCluster,
  lockCluster,
  registerCluster,
  updateCluster,
  type ClusterLoad,
  type ClusterRecord,
  type ClusterValues,
} from '../../db/registry/cluster-queries.js';
import type { ExpectedVersions } from '../../db/shared/row-version.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { ConnectionSettings, PoolLimits } from '../../db/driver/client.js';
import type { Destinations } from '../../db/driver/destinations.js';
import { MAINTENANCE_DATABASE } from '../../db/server/server-admin.js';
import { newId } from '../../db/shared/ids.js';
import { changesBetween } from '../audit/changes.js';
import { auditAct } from '../audit/operator-act.js';
import { AppError } from '../errors.js';
import { demandVersion } from '../http/row-versions.js';
import { tlsOf, type ClusterDirectory, type KnownCluster } from '../clusters/cluster-directory.js';
import { createClusterFitness, type ClusterFindings } from './cluster-fitness.js';
import { canonicalHost } from '../clusters/cluster-hosts.js';
import {
  demandAllowed,
  demandChangeable,
  demandEmpty,
  demandUnique,
  loadOf,
  type ClusterChanges,
  type NewCluster,
} from '../clusters/cluster-rules.js';
import type { ClusterBudget } from '../connections/governors.js';
import type { Envelope } from '../secrets/envelope.js';
import type { OperationTimes } from './runner/operation-times.js';
import type { Runner } from './runner/runner.js';
import type { StandbyDatabases } from './standby/standby-databases.js';
import type { TemplateMaker } from './template/template-maker.js';

export interface ClusterRegistration {
  /**
   * Inspects the server, makes the template on it, and registers the cluster. Audited.
   *
   * @throws AppError `cluster-host-not-allowed`, before the service sends anything; `cluster-unusable`, `cluster-taken`;
   *   `unavailable` if the template is not made in time: it is still being made
   */
  register(cluster: NewCluster, origin: AuditOrigin): Promise<{ cluster: ClusterRecord; warnings: readonly string[] }>;
  /**
   * Changes a cluster. A new place, new TLS settings or a new password are tested before they are stored. Audited.
   *
   * @param expected versions that the cluster's row may have
   * @throws AppError `not-found`, `default-cluster`, `provisioner-password-needed`, `cluster-in-use`, `precondition-failed`, and the
   *   errors of `register`
   */
  change(id: string, changes: ClusterChanges, origin: AuditOrigin, expected?: ExpectedVersions): Promise<ClusterRecord>;
  /** Inspects the server with its stored connection settings. @throws AppError `not-found` */
  check(id: string): Promise<ClusterFindings>;
  /**
   * Stops placing new tenants on the cluster, and drops its standby databases. Audited. It waits for a limited time: the service
   * drops the others in the background, also if the cluster does not answer now.
   *
   * @returns what is still on the cluster
   * @throws AppError `not-found`
   */
  drain(id: string, origin: AuditOrigin): Promise<ClusterLoad>;
  /**
   * Removes a cluster that holds nothing. Audited.
   *
   * @param expected versions that the cluster's row may have
   * @throws AppError `not-found`, `default-cluster`, `cluster-in-use`, `precondition-failed`
   */
  remove(id: string, origin: AuditOrigin, expected?: ExpectedVersions): Promise<void>;
  /** The connection settings; those of the default cluster come from the configuration. */
  settings: (row: ClusterRecord) => Pick<KnownCluster, 'isDefault' | 'user' | 'tls' | 'budget'>;
  /** Makes the row of the default cluster if it is missing. Call it before clusters are listed. */
  ensureDefault(): Promise<unknown>;
}

/** ms. */
const LOOK_EVERY = 50;

export function createClusterRegistration(deps: {
  readonly registry: Kysely<Registry>;
  readonly directory: ClusterDirectory;
  readonly standby: Pick<StandbyDatabases, 'withdrawAll'>;
  readonly runner: Pick<Runner, 'settle'>;
  readonly templates: TemplateMaker;
  /** Encrypts the provisioners' passwords. */
  readonly envelope: Envelope;
  /** The limits of a provisioner's pool; only the statement timeout is used here. */
  readonly limits: PoolLimits;
  readonly destinations: Destinations;
  readonly times: Pick<OperationTimes, 'prepareDeadline' | 'drainDeadline'>;
  /** Whether a host may be registered. */
  readonly isAllowed: (host: string) => boolean;
  /** Makes the row of the default cluster if it is missing. */
  readonly ensureDefault: () => Promise<unknown>;
  /** Called with each change, before its answer is sent. */
  readonly onChange: (clusterId: string) => Promise<void>;
}): ClusterRegistration {
  const { registry, directory, envelope, isAllowed } = deps;
  const fitness = createClusterFitness(deps);

  /** Before a change is answered, the other replicas are notified and this process has read the change. */
  async function publish(id: string): Promise<void> {
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
      demandAllowed(host, isAllowed);
      await deps.ensureDefault();
      if (await directory.find({ host, port })) throw new AppError('cluster-taken');
      const connection = { host, port, user, password, tls: tlsOf(cluster), database: MAINTENANCE_DATABASE };
      const id = newId();
      const warnings = await fitness.prepare(connection, budgetOf(cluster), { subject: id, clusterId: null });
      const sealed = envelope.seal(password, { id, host, port, user });
      const made = await demandUnique(() =>
        registry.transaction().execute(async (trx) => {
          const row = await registerCluster(trx, id, { ...cluster, provisionerPassword: sealed });
          await claimTenantsAt(trx, id, host, port);
          const details = { name: row.name, place: `${host}:${port}` };
          await auditAct(trx, { ...origin, action: 'cluster.registered', target: { kind: 'cluster', id }, details });
          return row;
        }),
      );
      await publish(id);
      return { cluster: made, warnings };
    },

    async change(id, given, origin, expected) {
      const row = await existing(id);
      // Before the server is asked for anything; the row's lock decides later.
      demandVersion(row, expected);
      const { provisionerPassword: password, ...others } = given;
      const changes = { ...others, ...(others.host !== undefined && { host: canonicalHost(others.host) }) };
      demandChangeable(given, directory.of(row).isDefault);
      const wanted = { ...row, ...definedOf(changes) };
      const { host, port, provisionerUser: user } = wanted;
      const moves = host !== row.host || port !== row.port;
      if (moves) {
        demandAllowed(host, isAllowed);
        await demandEmpty(registry, id);
        const there = await directory.find({ host, port });
        if (there && there.id !== id) throw new AppError('cluster-taken');
      }
      let sealed: string | undefined;
      if (password !== undefined) {
        const connection = { host, port, user, password, tls: tlsOf(wanted), database: MAINTENANCE_DATABASE };
        await fitness.prepare(connection, budgetOf(wanted), { subject: id, clusterId: id });
        sealed = envelope.seal(password, { id, host, port, user });
      }
      const changed = await demandUnique(() =>
        registry.transaction().execute(async (trx) => {
          const current = await lockCluster(trx, id);
          if (!current) throw new AppError('not-found');
          demandVersion(current, expected);
          if (moves) await demandEmpty(trx, id);
          // The ciphertext is bound to the place and the user. Another change may have replaced them meanwhile.
          const place = ({ host, port, provisionerUser }: ClusterRecord): unknown => [host, port, provisionerUser];
          if (!isDeepStrictEqual(place(current), place(row))) throw new AppError('cluster-in-use');
          const updated = await updateCluster(trx, id, { ...changes, provisionerPassword: sealed });
          if (!updated) throw new AppError('not-found');
          const fields = Object.entries(given).flatMap(([name, value]) => (value === undefined ? [] : [name]));
          const target = { kind: 'cluster', id } as const;
          const details = { fields, changes: changesBetween(shownOf(current), shownOf(updated)) };
          await auditAct(trx, { ...origin, action: 'cluster.updated', target, details });
          return updated;
        }),
      );
      await publish(id);
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
      return fitness.inspect(settings, budget);
    },

    async drain(id, origin) {
      await existing(id);
      await registry.transaction().execute(async (trx) => {
        await updateCluster(trx, id, { accepting: false, standbyTarget: 0 });
        await auditAct(trx, { ...origin, action: 'cluster.drained', target: { kind: 'cluster', id } });
      });
      await publish(id);
      const until = performance.now() + deps.times.drainDeadline;
      const dropped = (async () => {
        for (const standby of await deps.standby.withdrawAll(id))
          // Another worker may be at it.
          while (performance.now() < until && !(await deps.runner.settle(standby, 'withdraw'))) await sleep(LOOK_EVERY);
      })();
      // What is left then is dropped in the background.
      await Promise.race([dropped, sleep(deps.times.drainDeadline, undefined, { ref: false })]);
      return loadOf(registry, id);
    },

    async remove(id, origin, expected) {
      const row = await existing(id);
      if (directory.of(row).isDefault) throw new AppError('default-cluster');
      await registry.transaction().execute(async (trx) => {
        const current = await lockCluster(trx, id);
        if (!current) throw new AppError('not-found');
        demandVersion(current, expected);
        await demandEmpty(trx, id);
        await deleteCluster(trx, current);
        const details = { name: row.name, place: `${row.host}:${row.port}` };
        await auditAct(trx, { ...origin, action: 'cluster.removed', target: { kind: 'cluster', id }, details });
      });
      await publish(id);
    },

    settings: (row) => directory.of(row),
    ensureDefault: () => deps.ensureDefault(),
  };
}

function budgetOf({ connectionBudget, connectionReserve }: ClusterValues): ClusterBudget {
  return { tenants: connectionBudget, reserve: connectionReserve };
}

function definedOf<T extends object>(changes: T): { [Key in keyof T]: Exclude<T[Key], undefined> } {
  return Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined)) as {
    [Key in keyof T]: Exclude<T[Key], undefined>;
  };
}

/** The values of a cluster that the audit shows. Its password is a secret, and its certificates have a fingerprint. */
function shownOf(cluster: ClusterRecord): Record<string, unknown> {
  const { name, host, port, region, tls, tlsCa } = cluster;
  const { connectionBudget, connectionReserve, weight, accepting, standbyTarget } = cluster;
  const fingerprint = tlsCa === null ? null : `sha256:${createHash('sha256').update(tlsCa).digest('hex')}`;
  const settings = { connectionBudget, connectionReserve, weight, accepting, standbyTarget };
  return { name, host, port, region, tls, tlsCa: fingerprint, ...settings };
}

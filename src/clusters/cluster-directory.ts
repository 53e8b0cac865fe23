// The cluster directory caches the registry's clusters in this process. All clusters are kept, since there are only as many as
// servers. They are read again after a notification of a change. Requests are answered from memory.
import type { Kysely } from 'kysely';
import { listAllClusters, type ClusterRecord } from '../../db/registry/cluster-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { ConnectionSettings } from '../../db/driver/client.js';
import { MAINTENANCE_DATABASE } from '../../db/server/server-admin.js';
import { believedFor, type Events } from '../replicas/events.js';
import type { ClusterBudget } from '../connections/governors.js';
import type { Envelope } from '../secrets/envelope.js';
import type { Place } from './provisioners.js';

export interface KnownCluster extends Place {
  /** Undefined for the default cluster until it has a row. */
  readonly id: string | undefined;
  readonly name: string;
  /** Whether the configuration names this cluster. */
  readonly isDefault: boolean;
  /** The provisioner's role. */
  readonly user: string;
  readonly tls: ConnectionSettings['tls'];
  readonly budget: ClusterBudget;
  /** The settings to enter the cluster as its provisioner. @throws Error if its password does not decrypt */
  readonly connection: () => ConnectionSettings;
}

export interface ClusterDirectory {
  /** The cluster at a place if it is known, without waiting. */
  peek(place: Place): KnownCluster | undefined;
  /** The cluster at a place. If it is not known, the registry is asked. @throws DatabaseFault */
  find(place: Place): Promise<KnownCluster | undefined>;
  /** The cluster of a row, with the settings to enter it, whether or not the cluster is known yet. */
  of(row: ClusterRecord): KnownCluster;
  /** Reads all clusters again. @throws DatabaseFault */
  refresh(): Promise<void>;
  /** Calls `listener` with each cluster whose TLS settings have changed: connections to that cluster must be opened again. */
  onTlsChange(listener: (cluster: KnownCluster) => void): void;
}

/** After the registry failed to answer, it is asked again after this long (ms). */
const RETRY_AFTER = 1_000;

/** A place without a cluster is not looked up again for this long (ms). */
const UNKNOWN_FOR = 1_000;

/** The most readings in a row if a change overtakes each of them. */
const MAX_ROUNDS = 5;

/** The most places without a cluster that are remembered. */
const MAX_UNKNOWN = 1_000;

export function createClusterDirectory(deps: {
  readonly registry: Kysely<Registry>;
  readonly events: Events;
  readonly envelope: Envelope;
  /** The default cluster's connection settings as its provisioner, and its budget. */
  readonly default: { readonly connection: ConnectionSettings; readonly budget: ClusterBudget };
  readonly onError: (error: unknown) => void;
}): ClusterDirectory {
  const { registry, events, envelope } = deps;
  const { connection: own, budget } = deps.default;
  const listeners: ((cluster: KnownCluster) => void)[] = [];
  const unknown = new Map<string, number>();
  let known = new Map([[keyOf(own), defaultCluster(undefined)]]);
  let readAt = -Infinity;
  let failedAt = -Infinity;
  let reading: Promise<void> | undefined;
  /** Counts the notifications, so that an answer from before a notification does not count as an answer from after it. */
  let told = 0;

  events.subscribe(({ kind }) => {
    if (kind !== 'cluster' && kind !== 'any') return;
    told += 1;
    readAt = -Infinity;
    failedAt = -Infinity;
    unknown.clear();
    readSoon();
  });

  function defaultCluster(row: ClusterRecord | undefined): KnownCluster {
    const { host, port, user, tls } = own;
    const name = row?.name ?? keyOf(own);
    return { id: row?.id, name, host, port, isDefault: true, user, tls, budget, connection: () => own };
  }

  function of(row: ClusterRecord): KnownCluster {
    const { id, name, host, port, provisionerUser: user } = row;
    // The configuration says how the default cluster is entered, even if its row is older.
    if (keyOf(row) === keyOf(own)) return defaultCluster(row);
    return {
      id,
      name,
      host,
      port,
      isDefault: false,
      user,
      tls: tlsOf(row),
      budget: { tenants: row.connectionBudget, reserve: row.connectionReserve },
      connection: () => enteredAs(row, envelope),
    };
  }

  async function readNow(): Promise<void> {
    const since = told;
    const rows = await listAllClusters(registry);
    const before = known;
    known = new Map([[keyOf(own), defaultCluster(undefined)], ...rows.map((row) => [keyOf(row), of(row)] as const)]);
    // The answer may lack changes that were published while it was under way.
    if (since === told) readAt = performance.now();
    for (const [key, cluster] of known) {
      const old = before.get(key);
      if (old && JSON.stringify(old.tls) !== JSON.stringify(cluster.tls)) for (const tell of listeners) tell(cluster);
    }
  }

  /**
   * Runs one reading at a time, and another if a notification came meanwhile: the reading under way may have missed that change.
   */
  async function refresh(): Promise<void> {
    for (let round = 0; round < MAX_ROUNDS; round += 1) {
      reading ??= readNow().finally(() => {
        reading = undefined;
      });
      await reading;
      if (readAt > -Infinity) return;
    }
  }

  function readSoon(): void {
    if (reading || performance.now() - failedAt < RETRY_AFTER) return;
    refresh().catch((error: unknown) => {
      failedAt = performance.now();
      deps.onError(error);
    });
  }

  function peek(place: Place): KnownCluster | undefined {
    // A silent feed soon knows whether anything has changed. Until then nothing is read.
    if (performance.now() - readAt > believedFor(events) && !events.caughtUp()) readSoon();
    return known.get(keyOf(place));
  }

  return {
    peek,
    of,
    refresh,

    async find(place) {
      const key = keyOf(place);
      const cluster = peek(place);
      if (cluster || performance.now() - (unknown.get(key) ?? -Infinity) < UNKNOWN_FOR) return cluster;
      await refresh();
      const found = known.get(key);
      if (!found) {
        if (unknown.size >= MAX_UNKNOWN) unknown.clear();
        unknown.set(key, performance.now());
      }
      return found;
    },

    onTlsChange: (listener) => void listeners.push(listener),
  };
}

/** The settings to enter the cluster of a row as its provisioner. @throws Error if the password does not decrypt */
export function enteredAs(row: ClusterRecord, envelope: Envelope): ConnectionSettings {
  const { id, host, port, provisionerUser: user } = row;
  const password = envelope.open(row.provisionerPassword, { id, host, port, user });
  return { host, port, user, password, tls: tlsOf(row), database: MAINTENANCE_DATABASE };
}

/** The TLS settings in a row. */
export function tlsOf({ tls, tlsCa }: Pick<ClusterRecord, 'tls' | 'tlsCa'>): ConnectionSettings['tls'] {
  return tls === 'verify-full' && (tlsCa === null ? {} : { ca: tlsCa });
}

function keyOf({ host, port }: Place): string {
  return `${host}:${port}`;
}

// The cluster directory: the registry's clusters as this process knows them. All are kept, since there are as many as there are
// servers, and read again when a change is told; who asks on the way of a request is answered from memory.
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
  /** Undefined for the default cluster as long as it has no row. */
  readonly id: string | undefined;
  readonly name: string;
  /** Whether it is the one that the configuration names. */
  readonly isDefault: boolean;
  /** The provisioner's role. */
  readonly user: string;
  readonly tls: ConnectionSettings['tls'];
  readonly budget: ClusterBudget;
  /** How it is entered as its provisioner. @throws Error where its password does not open */
  readonly connection: () => ConnectionSettings;
}

export interface ClusterDirectory {
  /** The cluster at a place where it is known, without waiting. */
  peek(place: Place): KnownCluster | undefined;
  /** The same, looked for in the registry where it is not known. @throws DatabaseFault */
  find(place: Place): Promise<KnownCluster | undefined>;
  /** How a row's cluster is entered, whether or not it is known yet. */
  of(row: ClusterRecord): KnownCluster;
  /** Reads all clusters anew. @throws DatabaseFault */
  refresh(): Promise<void>;
  /** Calls `listener` with each cluster whose TLS is another than before: what is connected to it is to be connected anew. */
  onTlsChange(listener: (cluster: KnownCluster) => void): void;
}

/** A registry that does not answer is asked again after this long (ms). */
const RETRY_AFTER = 1_000;

/** For this long (ms) a place where nothing was found is not looked for again. */
const UNKNOWN_FOR = 1_000;

/** Readings in a row, where each is overtaken by a change. */
const MAX_ROUNDS = 5;

/** Places where nothing was found that are remembered. */
const MAX_UNKNOWN = 1_000;

export function createClusterDirectory(deps: {
  readonly registry: Kysely<Registry>;
  readonly events: Events;
  readonly envelope: Envelope;
  /** The default cluster, entered as its provisioner, and its budget. */
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
  /** Counts what was told, so that an answer from before it does not pass for one from after. */
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
    // How it is entered is what the configuration says, also where the row is from another time.
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
    // What was told while the answer was under way is not in it.
    if (since === told) readAt = performance.now();
    for (const [key, cluster] of known) {
      const old = before.get(key);
      if (old && JSON.stringify(old.tls) !== JSON.stringify(cluster.tls)) for (const tell of listeners) tell(cluster);
    }
  }

  /** One reading at a time, and another where a change was told that the one under way may have missed. */
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
    // A feed that is silent soon says whether anything changed.
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

/** How a row's cluster is entered as its provisioner. @throws Error where the password does not open */
export function enteredAs(row: ClusterRecord, envelope: Envelope): ConnectionSettings {
  const { id, host, port, provisionerUser: user } = row;
  const password = envelope.open(row.provisionerPassword, { id, host, port, user });
  return { host, port, user, password, tls: tlsOf(row), database: MAINTENANCE_DATABASE };
}

/** The TLS that a row says. */
export function tlsOf({ tls, tlsCa }: Pick<ClusterRecord, 'tls' | 'tlsCa'>): ConnectionSettings['tls'] {
  return tls === 'verify-full' && (tlsCa === null ? {} : { ca: tlsCa });
}

function keyOf({ host, port }: Place): string {
  return `${host}:${port}`;
}

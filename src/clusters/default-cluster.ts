// The default cluster is the cluster that the configuration names. It has a row in the registry like any other cluster, but the
// configuration says how it is entered.
import { isDeepStrictEqual } from 'node:util';
import type { Kysely } from 'kysely';
import {
  claimTenantsAt,
  findClusterAt,
  insertCluster,
  updateCluster,
  type ClusterRecord,
} from '../../db/registry/cluster-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { ConnectionSettings } from '../../db/driver/client.js';
import type { ClusterBudget } from '../connections/governors.js';
import type { Envelope } from '../secrets/envelope.js';

/** Re-encryption and other replicas can change the row between reading and writing it. */
const ATTEMPTS = 5;

export interface DefaultCluster {
  /**
   * Registers the default cluster if it has no row. Otherwise the row stays as it is: during a rolling deployment two
   * configurations would write it in turn. Returns the row's id.
   *
   * @throws DatabaseFault
   */
  ensure(): Promise<string>;
  /**
   * Updates the row from the configuration, once for each start of a replica. When another cluster becomes the default, the
   * service enters this cluster by its row. If it fails, the next call of `ensure` updates the row. Returns the row's id.
   *
   * @throws DatabaseFault
   */
  configure(): Promise<string>;
}

export function createDefaultCluster(deps: {
  readonly registry: Kysely<Registry>;
  readonly envelope: Envelope;
  readonly connection: ConnectionSettings;
  readonly budget: ClusterBudget;
}): DefaultCluster {
  const { registry, envelope, connection, budget } = deps;
  const { host, port, user, password, tls: encryption } = connection;
  const configured = {
    provisionerUser: user,
    tls: encryption === false ? 'off' : 'verify-full',
    tlsCa: encryption === false ? null : (encryption.ca ?? null),
    connectionBudget: budget.tenants,
    connectionReserve: budget.reserve,
  } as const;
  /** Whether the configuration has to be written. */
  let due = false;

  async function make(): Promise<void> {
    // Two replicas can do this at the same time. The first row stays, and the other replica finds it.
    await insertCluster(registry, (id) => ({
      name: `${host}:${port}`,
      host,
      port,
      provisioner_user: user,
      provisioner_password: envelope.seal(password, { id, host, port, user }),
      tls: configured.tls,
      tls_ca: configured.tlsCa,
      connection_budget: budget.tenants,
      connection_reserve: budget.reserve,
    }));
    const made = await findClusterAt(registry, host, port);
    if (made) await claimTenantsAt(registry, made.id, host, port);
  }

  /** Updates the row if it differs from the configuration. Returns false if it was changed meanwhile. */
  async function write(known: ClusterRecord): Promise<boolean> {
    const { provisionerUser, tls, tlsCa, connectionBudget, connectionReserve } = known;
    const stored = { provisionerUser, tls, tlsCa, connectionBudget, connectionReserve };
    if (isDeepStrictEqual(stored, configured) && passwordOf(known, envelope) === password) return true;
    const sealed = envelope.seal(password, { id: known.id, host, port, user });
    const changes = { ...configured, provisionerPassword: sealed };
    return (await updateCluster(registry, known.id, changes, known.provisionerPassword)) !== undefined;
  }

  async function ensure(): Promise<string> {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
      const known = await findClusterAt(registry, host, port);
      if (!known) await make();
      else if (!due) return known.id;
      else if (await write(known)) {
        due = false;
        return known.id;
      }
    }
    throw new Error('other replicas kept changing the row of the default cluster');
  }

  return {
    ensure,
    configure() {
      due = true;
      return ensure();
    },
  };
}

/** Undefined if the password is sealed with a key that is not known any more. */
function passwordOf(
  { id, host, port, provisionerUser: user, provisionerPassword }: ClusterRecord,
  envelope: Envelope,
): string | undefined {
  try {
    return envelope.open(provisionerPassword, { id, host, port, user });
  } catch {
    return undefined;
  }
}

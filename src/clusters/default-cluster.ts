// The default cluster: the one that the configuration names. It has its row in the registry as any other has; how it is
// entered is what the configuration says.
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

/**
 * Registers the default cluster where it has no row, and brings its row up to what the configuration says: the day that
 * another cluster becomes the default one, this row is how it is entered. Returns its id.
 *
 * @throws DatabaseFault
 */
export async function ensureDefaultCluster(
  registry: Kysely<Registry>,
  envelope: Envelope,
  connection: ConnectionSettings,
  budget: ClusterBudget,
): Promise<string> {
  const { host, port, user, password, tls: encryption } = connection;
  const configured = {
    provisionerUser: user,
    tls: encryption === false ? 'off' : 'verify-full',
    tlsCa: encryption === false ? null : (encryption.ca ?? null),
    connectionBudget: budget.tenants,
    connectionReserve: budget.reserve,
  } as const;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    const known = await findClusterAt(registry, host, port);
    if (!known) {
      // Two replicas can do this at once: the row of one stays, and the other finds it.
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
      continue;
    }
    const { provisionerUser, tls, tlsCa, connectionBudget, connectionReserve } = known;
    const stored = { provisionerUser, tls, tlsCa, connectionBudget, connectionReserve };
    if (isDeepStrictEqual(stored, configured) && passwordOf(known, envelope) === password) return known.id;
    const sealed = envelope.seal(password, { id: known.id, host, port, user });
    const changes = { ...configured, provisionerPassword: sealed };
    if (await updateCluster(registry, known.id, changes, known.provisionerPassword)) return known.id;
  }
  throw new Error('other replicas kept changing the row of the default cluster');
}

/** Undefined where it is sealed with a key that is not known any more. */
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

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
} from '../../db/central/clusters.js';
import type { Registry } from '../../db/central/schema.js';
import type { ConnectionSettings } from '../../db/client.js';
import type { ClusterBudget } from './clusters.js';
import type { Envelope } from './envelope.js';

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
  const { host, port, user, password, tls } = connection;
  const configured = {
    provisionerUser: user,
    tls: tls === false ? 'off' : 'verify-full',
    tlsCa: tls === false ? null : (tls.ca ?? null),
    connectionBudget: budget.tenants,
    connectionReserve: budget.reserve,
  } as const;
  const known = await findClusterAt(registry, host, port);
  if (known) {
    const context = { id: known.id, host, port, user };
    const { provisionerUser, tls, tlsCa, connectionBudget, connectionReserve } = known;
    const stored = { provisionerUser, tls, tlsCa, connectionBudget, connectionReserve };
    if (!isDeepStrictEqual(stored, configured) || passwordOf(known, envelope) !== password)
      await updateCluster(registry, known.id, { ...configured, provisionerPassword: envelope.seal(password, context) });
    return known.id;
  }
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
  if (!made) throw new Error('the default cluster has no row');
  await claimTenantsAt(registry, made.id, host, port);
  return made.id;
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

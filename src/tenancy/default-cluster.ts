// The default cluster: the one that the configuration names. It has its row in the registry as any other has; how it is
// entered is what the configuration says.
import type { Kysely } from 'kysely';
import { claimTenantsAt, findClusterIdAt, insertCluster } from '../../db/central/clusters.js';
import type { Registry } from '../../db/central/schema.js';
import type { ConnectionSettings } from '../../db/client.js';
import type { ClusterBudget } from './clusters.js';
import type { Envelope } from './envelope.js';

/** Registers the default cluster where it has no row. Returns its id. @throws DatabaseFault */
export async function ensureDefaultCluster(
  registry: Kysely<Registry>,
  envelope: Envelope,
  connection: ConnectionSettings,
  budget: ClusterBudget,
): Promise<string> {
  const { host, port, user, password, tls } = connection;
  const known = await findClusterIdAt(registry, host, port);
  if (known !== undefined) return known;
  await insertCluster(registry, (id) => ({
    name: `${host}:${port}`,
    host,
    port,
    provisioner_user: user,
    provisioner_password: envelope.seal(password, { id, host, port, user }),
    tls: tls === false ? 'off' : 'verify-full',
    tls_ca: tls === false ? null : (tls.ca ?? null),
    connection_budget: budget.tenants,
    connection_reserve: budget.reserve,
  }));
  const id = await findClusterIdAt(registry, host, port);
  if (id === undefined) throw new Error('the default cluster has no row');
  await claimTenantsAt(registry, id, host, port);
  return id;
}

// The embedded PostgreSQL of a service without a configured server. Starts it, creates the service's roles in it, and returns the
// settings to enter it.
import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { createDatabase, type ConnectionSettings } from '../../db/driver/client.js';
import { bootstrapCluster, MAINTENANCE_DATABASE } from '../../db/server/server-admin.js';
import { scramVerifier } from '../../db/server/scram.js';
import { ConfigError, type Settings } from '../config/index.js';
import { startEmbeddedCluster, type EmbeddedCluster } from '../embedded/embedded-cluster.js';
import type { LocalSecrets } from './local-secrets.js';

/** The running server, and the connections to it that the service needs. */
export interface EmbeddedConnections {
  readonly embedded: EmbeddedCluster;
  /** The registry, entered as the role that may migrate it. */
  readonly registryOwner: ConnectionSettings;
  readonly registry: ConnectionSettings;
  readonly provisioner: ConnectionSettings;
}

const REGISTRY = 'tenantry_registry';
const REGISTRY_SERVICE = 'tenantry_service';
const PROVISIONER = 'tenantry_provisioner';

/** The iteration count of RFC 7677: an operator may choose these passwords one day. */
const SCRAM_ITERATIONS = 4_096;

/**
 * @param onEmbedded called as soon as the server runs, so that it can be stopped if a later step fails
 * @throws ConfigError if the server does not start
 */
export async function enterEmbedded(
  settings: Settings,
  secrets: LocalSecrets,
  log: Logger,
  onEmbedded: (cluster: EmbeddedCluster) => void,
): Promise<EmbeddedConnections> {
  const embedded = await startEmbedded(settings, secrets, log);
  onEmbedded(embedded);
  const at = (user: string, password: string, database: string): ConnectionSettings => ({
    host: embedded.host,
    port: embedded.port,
    database,
    user,
    password,
    tls: false,
  });
  const superuser = createDatabase<unknown>(
    at(embedded.superuser, secrets.superuserPassword, MAINTENANCE_DATABASE),
    settings.registry.pool,
    {
      applicationName: 'tenantry bootstrap',
      preparedStatements: false,
    },
  );
  // New at every start and stored nowhere, so that no other process can enter with it.
  const servicePassword = randomBytes(32).toString('base64url');
  try {
    await bootstrapCluster(superuser.db, {
      registryOwner: { name: REGISTRY, verifier: await scramVerifier(secrets.registryPassword, SCRAM_ITERATIONS) },
      registryService: { name: REGISTRY_SERVICE, verifier: await scramVerifier(servicePassword, SCRAM_ITERATIONS) },
      provisioner: { name: PROVISIONER, verifier: await scramVerifier(secrets.provisionerPassword, SCRAM_ITERATIONS) },
      registryDatabase: REGISTRY,
    });
  } finally {
    await superuser.close(0);
  }
  return {
    embedded,
    registryOwner: at(REGISTRY, secrets.registryPassword, REGISTRY),
    registry: at(REGISTRY_SERVICE, servicePassword, REGISTRY),
    provisioner: at(PROVISIONER, secrets.provisionerPassword, MAINTENANCE_DATABASE),
  };
}

async function startEmbedded(
  { dataDir }: Settings,
  { superuserPassword }: LocalSecrets,
  log: Logger,
): Promise<EmbeddedCluster> {
  try {
    return await startEmbeddedCluster({
      home: dataDir,
      superuserPassword,
      settings: { max_connections: '200' },
      log: {
        info: (text) => {
          log.info(text);
        },
        warn: (text) => {
          log.warn(text);
        },
        error: (text) => {
          log.error(text);
        },
      },
    });
  } catch (error) {
    // The person at the terminal can correct this, and the message says how.
    throw new ConfigError([error instanceof Error ? error.message : String(error)]);
  }
}

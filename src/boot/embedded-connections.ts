// The embedded PostgreSQL of a service without a configured server. Starts it, creates the service's roles in it, and returns the
// settings to enter it.
import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { createDatabase, type ConnectionSettings } from '../../db/driver/client.js';
import { bootstrapCluster, MAINTENANCE_DATABASE } from '../../db/server/server-admin.js';
import { scramVerifier } from '../../db/server/scram.js';
import type { Settings } from '../config/index.js';
import { addressOfRunning, startEmbeddedCluster, type EmbeddedCluster } from '../embedded/embedded-cluster.js';
import { HomeInUse } from '../embedded/lock.js';
import type { LocalSecrets } from './local-secrets.js';
import { folderProblem, StartProblem } from './start-problem.js';

/** The connections to the embedded server that the service needs. */
export interface EmbeddedConnections {
  /** Undefined if another process runs it. */
  readonly embedded: EmbeddedCluster | undefined;
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

export interface Entering {
  /** Called as soon as the server runs, so that it can be stopped if a later step fails. */
  readonly onEmbedded: (cluster: EmbeddedCluster) => void;
  /** Called before each part of the start that may take seconds. */
  readonly onStep?: (step: string) => void;
  /** Whether to enter the server that another process runs, instead of refusing. For commands beside a running service. */
  readonly join?: boolean;
}

/** @throws StartProblem if the server does not start */
export async function enterEmbedded(
  settings: Settings,
  secrets: LocalSecrets,
  log: Logger,
  { onEmbedded, onStep, join = false }: Entering,
): Promise<EmbeddedConnections> {
  const started = await startEmbedded(settings, secrets, log, onStep, join);
  if ('join' in started) {
    const at = connectionsTo(started.join);
    const owner = at(REGISTRY, secrets.registryPassword, REGISTRY);
    // Only the running service knows the password of its role, so the owner of the registry is used.
    return { embedded: undefined, registryOwner: owner, registry: owner, provisioner: provisionerOf(at, secrets) };
  }
  const { embedded } = started;
  onEmbedded(embedded);
  const at = connectionsTo(embedded);
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
    provisioner: provisionerOf(at, secrets),
  };
}

type At = (user: string, password: string, database: string) => ConnectionSettings;

function connectionsTo({ host, port }: Pick<EmbeddedCluster, 'host' | 'port'>): At {
  return (user, password, database) => ({ host, port, database, user, password, tls: false });
}

function provisionerOf(at: At, { provisionerPassword }: LocalSecrets): ConnectionSettings {
  return at(PROVISIONER, provisionerPassword, MAINTENANCE_DATABASE);
}

/** Starts the server; `join`: or finds the one that another process runs in the folder. */
async function startEmbedded(
  { dataDir }: Settings,
  { superuserPassword }: LocalSecrets,
  log: Logger,
  onStep: ((step: string) => void) | undefined,
  join: boolean,
): Promise<{ embedded: EmbeddedCluster } | { join: Pick<EmbeddedCluster, 'host' | 'port'> }> {
  const lines = {
    info: (text: string) => {
      log.info(text);
    },
    warn: (text: string) => {
      log.warn(text);
    },
    error: (text: string) => {
      log.error(text);
    },
  };
  try {
    try {
      const settings = { max_connections: '200' };
      return {
        embedded: await startEmbeddedCluster({ home: dataDir, superuserPassword, settings, log: lines, onStep }),
      };
    } catch (error) {
      if (!join || !(error instanceof HomeInUse)) throw error;
      return { join: await addressOfRunning(dataDir, lines) };
    }
  } catch (error) {
    const problem = folderProblem(error, dataDir);
    if (problem instanceof StartProblem) throw problem;
    // The person at the terminal can correct this, and the message says how.
    throw new StartProblem(error instanceof Error ? error.message : String(error), { cause: error });
  }
}

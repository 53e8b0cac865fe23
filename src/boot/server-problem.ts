// Why a PostgreSQL server of the configuration cannot be used: what PostgreSQL, TLS or the network answered, and what to correct.
import type { ConnectionSettings } from '../../db/driver/client.js';
import { DatabaseFault, pooledAdvice } from '../../db/driver/database-fault.js';
import { LocksKept } from '../../db/shared/patient-locks.js';
import { ConfigError } from '../config/index.js';

/** A server, as the person who starts the service knows it. */
export interface NamedServer {
  /** For example `the registry`. */
  readonly what: string;
  /** For example `DATABASE_URL`. */
  readonly variable: string;
  readonly connection: ConnectionSettings;
}

type Advice = (server: NamedServer) => string;

const unknownHost: Advice = ({ variable }) => `no address is known for this name. Correct the host in ${variable}`;
const silent: Advice = () => 'it does not answer. Check the network, the firewall and the server';
const untrusted: Advice = () =>
  'its certificate is not signed by a trusted authority. Set DATABASE_CA_FILE to the CA of this server';
const starting: Advice = () => 'it is starting or stopping. Start again in a moment';

/** By SQLSTATE, system error code or fixed text (DatabaseFault.reason). */
const advices: Readonly<Record<string, Advice>> = {
  ECONNREFUSED: ({ variable }) => `no server listens there. Start it, or correct ${variable}`,
  ENOTFOUND: unknownHost,
  EAI_AGAIN: unknownHost,
  EHOSTUNREACH: silent,
  ENETUNREACH: silent,
  ETIMEDOUT: silent,
  'no connection was opened in time': silent,
  'no answer': silent,
  '28P01': ({ variable, connection }) =>
    `the password of the role "${connection.user}" is wrong. Correct ${variable}, or set the password with deploy/bootstrap.sh`,
  '28000': ({ connection }) =>
    `it does not let the role "${connection.user}" in. Run deploy/bootstrap.sh, and check pg_hba.conf and DATABASE_TLS`,
  '3D000': ({ connection }) => `it has no database "${connection.database}". Run deploy/bootstrap.sh`,
  '42501': ({ connection }) =>
    `the role "${connection.user}" may not connect to the database "${connection.database}". Run deploy/bootstrap.sh`,
  '53300': () => 'it has no free connection. Raise max_connections, or end other sessions',
  '57P03': starting,
  '57P01': starting,
  SELF_SIGNED_CERT_IN_CHAIN: untrusted,
  DEPTH_ZERO_SELF_SIGNED_CERT: untrusted,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: untrusted,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: untrusted,
  CERT_HAS_EXPIRED: () => 'its certificate has expired. Renew it',
  ERR_TLS_CERT_ALTNAME_INVALID: ({ variable }) =>
    `its certificate is for another name. Use the name of the certificate in ${variable}`,
};

/** If a server does not answer, the error becomes one line that says what to correct. Any other error is returned unchanged. */
export function serverProblem(server: NamedServer, error: unknown): unknown {
  const { what, variable, connection } = server;
  const place = `${what} at ${connection.host}:${connection.port}`;
  if (error instanceof LocksKept) return new ConfigError([`${place} could not be migrated: ${error.message}`]);
  if (!(error instanceof DatabaseFault)) return error;
  const advice =
    advices[error.reason]?.(server) ?? pooledAdvice(error.reason) ?? `check ${variable} and the server's log`;
  return new ConfigError([`${place} cannot be used (${error.reason}): ${advice}`]);
}

// The connections to PostgreSQL, which several variables give together: three URLs, the TLS mode and the CA file.
import type { ConnectionSettings } from '../../db/driver/client.js';
import { valueOf, type ParsedVariables } from './parsed-variables.js';
import { readCaFile } from './parsers/ca-file.js';
import { parseDatabaseUrl } from './parsers/database-url.js';

/** Undefined: the variable is not set, or its URL was refused. */
export interface DatabaseConnections {
  readonly registry: ConnectionSettings | undefined;
  /** The registry as its owner, for migrations. */
  readonly owner: ConnectionSettings | undefined;
  /** The server of tenant databases. */
  readonly provisioner: ConnectionSettings | undefined;
}

/** Reads DATABASE_URL, MIGRATION_DATABASE_URL and TENANT_DATABASE_URL. All three use the same TLS settings. */
export function readDatabaseConnections(
  env: NodeJS.ProcessEnv,
  values: ParsedVariables,
  problems: string[],
): DatabaseConnections {
  const verified = valueOf(values, 'DATABASE_TLS') === 'verify-full';
  const tls = verified && readCaFile('DATABASE_CA_FILE', values.DATABASE_CA_FILE, problems);
  // A CA file promises TLS: without this check the connection would be unencrypted.
  if (!tls && values.DATABASE_CA_FILE)
    problems.push('DATABASE_CA_FILE is set and DATABASE_TLS is off: set DATABASE_TLS=verify-full');
  const registry = parseDatabaseUrl('DATABASE_URL', values.DATABASE_URL, tls, problems);
  const owner = parseDatabaseUrl('MIGRATION_DATABASE_URL', values.MIGRATION_DATABASE_URL, tls, problems);
  const provisioner = parseDatabaseUrl('TENANT_DATABASE_URL', values.TENANT_DATABASE_URL, tls, problems);
  for (const name of ['TENANT_DATABASE_URL', 'MIGRATION_DATABASE_URL']) {
    if (env[name] && !env['DATABASE_URL'])
      problems.push(`${name} is set and DATABASE_URL is not: set both, or neither`);
  }
  return { registry, owner, provisioner: provisioner ?? registry };
}

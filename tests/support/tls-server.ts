// TLS for a PostgreSQL server of the tests.
import { sql } from 'kysely';
import { createDatabase, type ConnectionSettings } from '../../db/driver/client.js';
import { selfSigned } from './certificate.js';
import { eventually } from './service-process.js';

const limits = { max: 1, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };

/**
 * Turns on TLS, with a certificate for `host`.
 *
 * @returns the certificate (PEM), which is its own CA
 */
export async function serveTls(superuser: ConnectionSettings, host: string): Promise<string> {
  const { certificate, key } = selfSigned(host);
  const files = { ssl_cert_file: `${host}.crt`, ssl_key_file: `${host}.key` };
  const handle = createDatabase<unknown>(superuser, limits, {
    applicationName: 'tests',
    preparedStatements: false,
  });
  const { db } = handle;
  try {
    for (const [setting, text] of [
      ['ssl_cert_file', certificate],
      ['ssl_key_file', key],
    ] as const) {
      // Written by the server: the key must belong to the server's user, which is another one under root.
      await sql`copy (select unnest(string_to_array(${sql.lit(text)}, e'\\n')))
        to program ${sql.lit(`umask 077; cat > ${files[setting]}`)}`.execute(db);
      await sql`alter system set ${sql.raw(setting)} to ${sql.lit(files[setting])}`.execute(db);
    }
    await sql`alter system set ssl to on`.execute(db);
    await sql`select pg_reload_conf()`.execute(db);
    await eventually('it uses the certificate', async () => {
      const { rows } = await sql<{ used: boolean }>`
        select current_setting('ssl')::boolean and current_setting('ssl_cert_file') = ${files.ssl_cert_file} as used`.execute(
        db,
      );
      return rows[0]?.used ?? false;
    });
  } finally {
    await handle.close(0);
  }
  return certificate;
}

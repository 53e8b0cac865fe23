// A Kysely that runs everything on one given connection. The caller that opened the connection also releases it.
import { Kysely, PostgresDialect, type PostgresPoolClient, type PostgresQueryResult } from 'kysely';
import type { Session } from './pool/held-connection.js';
import { setRunner } from './statement.js';

export function over<DB>(session: Session): Kysely<DB> {
  return kyselyThat((text, values) => session.run(text, values));
}

/** @param run runs one statement on the connection */
export function kyselyThat<DB>(
  run: (text: string, values: readonly unknown[]) => Promise<PostgresQueryResult<unknown>>,
): Kysely<DB> {
  const client: PostgresPoolClient = { query: run as PostgresPoolClient['query'], release: () => undefined };
  const db = new Kysely<DB>({
    dialect: new PostgresDialect({ pool: { connect: async () => client, end: async () => undefined } }),
  });
  const rows = async <Row>(text: string, values: readonly unknown[]): Promise<Row[]> =>
    (await run(text, values)).rows as Row[];
  setRunner(db, { read: rows, run: rows });
  return db;
}

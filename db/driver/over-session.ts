// A Kysely over one connection that somebody else holds.
import { Kysely, PostgresDialect, type PostgresPoolClient } from 'kysely';
import type { Session } from './pool/held-connection.js';
import { setRunner } from './statement.js';

/** It does not give the connection back. */
export function over<DB>(session: Session): Kysely<DB> {
  const client: PostgresPoolClient = {
    query: ((text: string, values: readonly unknown[]) => session.query(text, values)) as PostgresPoolClient['query'],
    release: () => undefined,
  };
  const db = new Kysely<DB>({
    dialect: new PostgresDialect({ pool: { connect: async () => client, end: async () => undefined } }),
  });
  const run = async <Row>(text: string, values: readonly unknown[]): Promise<Row[]> =>
    (await session.run<Row>(text, values)).rows;
  setRunner(db, { read: run, run });
  return db;
}

// One statement on a client of pg, or several in one packet, of which the last gives the result. pg's own query asks for the columns
// of the result, and copies its settings, at each execution.
// This query asks once for each statement that a connection has prepared. PostgreSQL guarantees that the answer stays valid: a
// prepared statement whose result would look different fails (0A000).
import type { PostgresQueryResult } from 'kysely';
import pg from 'pg';

/**
 * @param name of the prepared statement; undefined runs the text unprepared
 * @throws what pg passes to its callback
 */
export function ask<R>(
  client: pg.ClientBase,
  name: string | undefined,
  text: string,
  values: readonly unknown[],
): Promise<PostgresQueryResult<R>> {
  return new Promise((resolve, reject) => {
    // A callback, because each promise that pg makes costs two more promises and a stack trace.
    const answer: Answer = (error, result) => {
      if (error) reject(error);
      else resolve((Array.isArray(result) ? result.at(-1) : result) as PostgresQueryResult<R>);
    };
    // A value that cannot be encoded throws here, before the connection knows about the statement.
    const written = values.map(prepareValue);
    if (name === undefined) client.query({ text, values: written }, answer);
    else client.query(new NamedQuery(client, name, text, written, answer) as unknown as pg.Query);
  });
}

type Answer = (error: Error | null, result: unknown) => void;

/** How to read the rows of a statement. */
interface Shape {
  readonly columns: readonly { readonly name: string; readonly parse: (text: string) => unknown }[];
  /** A row of nulls. Copying it is the cheapest way to make an object with these keys. */
  readonly empty: Readonly<Record<string, unknown>>;
}

/** The shapes that each connection has reported for its prepared statements. */
const described = new WeakMap<pg.ClientBase, Map<string, Shape>>();

/** The part of pg's query that NamedQuery uses. pg's published types leave it out. */
interface PgQuery {
  _result: { addRow(row: object): void };
  _canceledDueToError: unknown;
  prepare(connection: Connection): void;
}

interface Field {
  readonly name: string;
  readonly dataTypeID: pg.FieldDef['dataTypeID'] & Parameters<pg.ClientBase['getTypeParser']>[0];
}

interface Connection {
  bind(settings: { statement: string; values: readonly unknown[] }): void;
  execute(settings: object): void;
  sync(): void;
}

const Query = pg.Query as unknown as new (text: string) => PgQuery;
const { prepareValue } = (pg as unknown as { utils: { prepareValue: (value: unknown) => unknown } }).utils;

/** Derived from pg's own query: a pipelined client accepts no other. */
class NamedQuery extends Query {
  #shape: Shape | undefined;

  /** pg reads `name`, `text`, `values` and `callback`. */
  constructor(
    private readonly client: pg.ClientBase,
    readonly name: string,
    readonly text: string,
    readonly values: readonly unknown[],
    readonly callback: Answer,
  ) {
    super(text);
    this.#shape = described.get(client)?.get(name);
  }

  override prepare(connection: Connection): void {
    if (!this.#shape) {
      super.prepare(connection);
      return;
    }
    connection.bind({ statement: this.name, values: this.values });
    connection.execute({});
    connection.sync();
  }

  handleRowDescription({ fields }: { readonly fields: readonly Field[] }): void {
    this.#shape = {
      columns: fields.map(({ name, dataTypeID }) => ({
        name,
        parse: this.client.getTypeParser(dataTypeID, 'text') as (text: string) => unknown,
      })),
      empty: Object.fromEntries(fields.map(({ name }) => [name, null])),
    };
    const statements = described.get(this.client) ?? new Map<string, Shape>();
    described.set(this.client, statements.set(this.name, this.#shape));
  }

  handleDataRow({ fields: texts }: { readonly fields: readonly (string | null)[] }): void {
    if (this._canceledDueToError || !this.#shape) return;
    const { columns, empty } = this.#shape;
    const row = { ...empty };
    try {
      columns.forEach(({ name, parse }, index) => {
        const text = texts[index];
        if (typeof text === 'string') row[name] = parse(text);
      });
      this._result.addRow(row);
    } catch (error) {
      // pg reports the error when the server is ready: the rest of the answer is still to come.
      this._canceledDueToError = error;
    }
  }
}

// One statement on a client of pg. At each execution pg's own query asks the server what the columns of the result are, and
// copies its settings; ours asks once for each statement that a connection has prepared. PostgreSQL lets one rely on the
// answer: a prepared statement whose result would look different fails (0A000).
import type { PostgresQueryResult } from 'kysely';
import pg from 'pg';

/**
 * @param name the prepared statement's; undefined runs the text unprepared
 * @throws what pg hands to its callback
 */
export function ask<R>(
  client: pg.ClientBase,
  name: string | undefined,
  text: string,
  values: readonly unknown[],
): Promise<PostgresQueryResult<R>> {
  return new Promise((resolve, reject) => {
    // A callback: for each promise that pg makes itself it makes two more, and a stack trace.
    const answer: Answer = (error, result) => {
      if (error) reject(error);
      else resolve(result as PostgresQueryResult<R>);
    };
    // What cannot be written throws here, before the connection knows of the statement.
    const written = values.map(prepareValue);
    if (name === undefined) client.query({ text, values: written }, answer);
    else client.query(new NamedQuery(client, name, text, written, answer) as unknown as pg.Query);
  });
}

type Answer = (error: Error | null, result: unknown) => void;

/** How the rows of a statement are read. */
interface Shape {
  readonly columns: readonly { readonly name: string; readonly parse: (text: string) => unknown }[];
  /** A row of nulls: copying it is the cheapest way to an object with these keys. */
  readonly empty: Readonly<Record<string, unknown>>;
}

/** What each connection has told of the statements that it has prepared. */
const described = new WeakMap<pg.ClientBase, Map<string, Shape>>();

/** The part of pg's query that is built upon, and that its published types leave out. */
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

/** A pipelined client takes nothing that is not derived from pg's own. */
class NamedQuery extends Query {
  #shape: Shape | undefined;

  /** `name`, `text`, `values` and `callback` are read by pg. */
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
      // Told by pg when the server is ready: the rest of the answer is still to come.
      this._canceledDueToError = error;
    }
  }
}

// Queries of the request path, compiled once for each shape they take. Kysely builds and prints a query at every call, which
// costs more than sending it. A compiled query runs again with new parameters.
import { Kysely, type Compilable, type CompiledQuery } from 'kysely';

/**
 * A query that is built once for each combination of given parameters and `shape`:
 *
 *     const productById = statement((db: Kysely<TenantDatabase>, { id }: { id: string }) =>
 *       db.selectFrom('products').select(columns).where('id', '=', id));
 *     const [product] = await productById(db, { id });
 *
 * `build` gets placeholders for the parameters and must pass them on unchanged. It can only check whether a parameter is
 * undefined. Anything that decides how the query looks, such as a sort column, belongs in `shape`. There must be few shapes.
 *
 * @returns a function that runs the query and resolves to its rows
 */
export function statement<DB, P extends object, Row, S = undefined>(
  build: Build<DB, P, Row, S>,
): Statement<DB, P, Row, S> {
  return compiledOnce(build, 'run');
}

/**
 * Like `statement`, for a query that changes nothing and takes a moment, such as a look-up by key or a page of an index. Outside
 * a transaction it may share a connection with other reads (db/driver/lane/lane.ts).
 */
export function shortRead<DB, P extends object, Row, S = undefined>(
  build: Build<DB, P, Row, S>,
): Statement<DB, P, Row, S> {
  return compiledOnce(build, 'read');
}

/**
 * How a database runs compiled statements outside transactions: without Kysely's executor, which would double the cost. May
 * throw as well as reject.
 */
export interface Runner {
  read<Row>(text: string, values: readonly unknown[]): Promise<Row[]>;
  run<Row>(text: string, values: readonly unknown[]): Promise<Row[]>;
}

/** A database that runs compiled statements itself. It costs less than `setRunner`, and so suits a database for one request. */
export abstract class RunningKysely<DB> extends Kysely<DB> implements Runner {
  abstract read<Row>(text: string, values: readonly unknown[]): Promise<Row[]>;
  abstract run<Row>(text: string, values: readonly unknown[]): Promise<Row[]>;
}

/** By database. A transaction is a Kysely of its own, without a runner. */
const runners = new WeakMap<object, Runner>();

export function setRunner<DB>(db: Kysely<DB>, runner: Runner): void {
  runners.set(db, runner);
}

type Build<DB, P, Row, S> = (db: Kysely<DB>, parameters: P, shape: S) => Compilable<Row>;

type Statement<DB, P, Row, S> = (
  db: Kysely<DB>,
  parameters: P,
  ...shape: S extends undefined ? [] : [S]
) => Promise<Row[]>;

function compiledOnce<DB, P extends object, Row, S>(
  build: Build<DB, P, Row, S>,
  way: keyof Runner,
): Statement<DB, P, Row, S> {
  const compiled = new Map<string, CompiledQuery<Row>>();
  // Async although it awaits only Kysely: an error that a runner throws becomes a rejection.
  return async (db, parameters, ...[shape]) => {
    const given = parameters as Readonly<Record<string, unknown>>;
    const key = shapeOf(given, shape);
    let query = compiled.get(key);
    if (!query) {
      query = build(db, placeholders(parameters), shape as S).compile();
      compiled.set(key, query);
    }
    const values = query.parameters.map((value) => (value instanceof Placeholder ? given[value.name] : value));
    const runner = db instanceof RunningKysely ? db : runners.get(db);
    if (runner) return runner[way]<Row>(query.sql, values);
    const { rows } = await db.executeQuery<Row>({ ...query, parameters: values });
    return rows;
  };
}

/** The names of the given parameters, and the shape. A parameter that is undefined is left out of the query. */
function shapeOf(parameters: Readonly<Record<string, unknown>>, shape: unknown): string {
  let key = shape === undefined ? '' : JSON.stringify(shape);
  for (const name of Object.keys(parameters)) if (parameters[name] !== undefined) key += ` ${name}`;
  return key;
}

function placeholders<P extends object>(parameters: P): P {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given.map(([name]) => [name, new Placeholder(name)])) as P;
}

/** A parameter while a query is built. */
class Placeholder {
  constructor(readonly name: string) {}

  /** Throws, because a value computed from a placeholder would become a constant of the compiled query. */
  [Symbol.toPrimitive](): never {
    throw new TypeError(`the parameter "${this.name}" was used to compute something while the query was built`);
  }
}

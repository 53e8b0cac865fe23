// What the schema of a database consists of, as data.

/** In the order in which differences are listed. */
export const OBJECT_KINDS = [
  'migration',
  'database',
  'schema',
  'extension',
  'type',
  'table',
  'view',
  'sequence',
  'column',
  'constraint',
  'index',
  'function',
  'trigger',
  'rule',
  'policy',
  'grant',
  'default privilege',
] as const;
export type ObjectKind = (typeof OBJECT_KINDS)[number];

/** The words for the roles of a database, whatever their names. */
export const ROLES = { owner: 'the provisioner', runtime: 'the runtime role' } as const;

export interface SchemaObject {
  readonly kind: ObjectKind;
  /** Unique in a database: `column products.price`, `grant on relation products to the runtime role`. */
  readonly id: string;
  /** The id of the object that it is a part of; null for the database and for what is a part of the database only. */
  readonly parent: string | null;
  /** As a person calls it: `products.price`. Without the schema, if that is `public`. */
  readonly name: string;
  /** What is compared, by its name: `type` → `numeric(12,2)`. Null is a fact as well: there is no default. */
  readonly facts: Readonly<Record<string, string | null>>;
}

export type DatabaseSchema = readonly SchemaObject[];

export interface SchemaReading {
  /** The role of the tenant; undefined in a template. */
  readonly runtimeRole?: string | undefined;
  /**
   * The tables, views, sequences, functions and types that are expected, by name. The parts of other tables are not read: a
   * difference names only the whole. Undefined reads everything.
   */
  readonly expected?: readonly string[] | undefined;
  /** Leaves out the others: those of an adopted database are its own. */
  readonly onlyExpected?: boolean | undefined;
}

/** The names of what is expected of a database, for `SchemaReading`. */
export function namesIn(schema: DatabaseSchema): string[] {
  const kinds: readonly ObjectKind[] = ['table', 'view', 'sequence', 'function', 'type'];
  return schema.filter(({ kind }) => kinds.includes(kind)).map(({ name }) => name);
}

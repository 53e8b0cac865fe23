// JSON Schema (2020-12) of zod schemas, for the OpenAPI document. A schema with the metadata `id` is a named component.
import { z } from 'zod';

/** A part of the document: a JSON Schema, or an object of OpenAPI. */
export type Json = Readonly<Record<string, unknown>>;

/** `input`: what a request may have. `output`: what an answer has. */
type Direction = 'input' | 'output';

/** Collects the components that the converted schemas name. */
export class SchemaComponents {
  private readonly known = new Map<string, Json>();

  /** The components so far, in alphabetical order. */
  get named(): Readonly<Record<string, Json>> {
    return Object.fromEntries([...this.known].sort(([one], [other]) => (one < other ? -1 : 1)));
  }

  /**
   * The schema of a request's part or of an answer. A named schema is a reference.
   *
   * @throws Error if two different schemas have one name
   */
  of(schema: z.ZodType, direction: Direction): Json {
    const { definitions, root } = convert(schema, direction);
    for (const [name, definition] of Object.entries(definitions)) this.add(name, definition);
    return root;
  }

  private add(name: string, schema: Json): void {
    const former = this.known.get(name);
    if (former && former !== schema && JSON.stringify(former) !== JSON.stringify(schema))
      throw new Error(`two schemas have the name ${name}: give each its own \`id\``);
    this.known.set(name, schema);
  }
}

interface Converted {
  readonly definitions: Readonly<Record<string, Json>>;
  readonly root: Json;
}

/** Schemas are constants, and many routes use the same ones. */
const converted = { input: new WeakMap<z.ZodType, Converted>(), output: new WeakMap<z.ZodType, Converted>() };

function convert(schema: z.ZodType, direction: Direction): Converted {
  const known = converted[direction].get(schema);
  if (known) return known;
  const made = z.toJSONSchema(schema, {
    io: direction,
    override: ({ zodSchema, jsonSchema }) => {
      adapt(zodSchema, jsonSchema, direction);
    },
  });
  const text = JSON.stringify(made).replaceAll('"#/$defs/', '"#/components/schemas/');
  const {
    $schema: _dialect,
    $defs = {},
    ...root
  } = JSON.parse(text) as Json & { readonly $defs?: Converted['definitions'] };
  const result = { definitions: $defs, root };
  converted[direction].set(schema, result);
  return result;
}

function adapt(schema: z.core.$ZodType, json: z.core.JSONSchema.BaseSchema, direction: Direction): void {
  // Answers are open: a client must ignore a key that it does not know, so that a later version can add one.
  if (direction === 'output' && json.additionalProperties === false) delete json.additionalProperties;
  // Zod leaves the default out if the value is transformed, as every number in a query is.
  const { def } = schema._zod as z.core.$ZodDefault['_zod'];
  if (direction === 'input' && (def.type as string) === 'default') json.default = def.defaultValue;
  // One operation has the example, and not every use of the schema.
  delete json.examples;
}

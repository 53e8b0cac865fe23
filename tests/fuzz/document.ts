// The parts of the service's own OpenAPI document from which requests are generated, and against which answers are checked.
import { dereferenced } from '../support/dereferenced.js';

/** A JSON schema (2020-12), with the keywords that are used here. */
export interface Schema {
  readonly type?: string | readonly string[];
  readonly enum?: readonly (string | number | boolean)[];
  readonly anyOf?: readonly Schema[];
  readonly pattern?: string;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly items?: Schema;
  readonly maxItems?: number;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | Schema;
}

type Content = Readonly<Record<string, { readonly schema: Schema }>>;

export interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly schema: Schema;
}

export interface Operation {
  /** `PATCH /products/{id}`. */
  readonly name: string;
  readonly method: string;
  readonly path: string;
  readonly tag: string;
  readonly parameters: readonly Parameter[];
  readonly body: Schema | undefined;
  /** By status; undefined if the answer has no body. */
  readonly answers: ReadonlyMap<number, Content | undefined>;
}

export interface OpenApiDocument {
  readonly paths: Readonly<
    Record<
      string,
      Readonly<
        Record<
          string,
          {
            readonly tags?: readonly string[];
            readonly parameters?: readonly Parameter[];
            readonly requestBody?: { readonly content: Content };
            readonly responses: Readonly<Record<string, { readonly content?: Content }>>;
          }
        >
      >
    >
  >;
}

/** Every operation, in the order of the document. */
export function operationsOf(document: OpenApiDocument): Operation[] {
  return Object.entries(dereferenced(document).paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { tags, parameters, requestBody, responses }]) => ({
      name: `${method.toUpperCase()} ${path}`,
      method: method.toUpperCase(),
      path,
      tag: tags?.[0] ?? '',
      parameters: parameters ?? [],
      body: requestBody?.content['application/json']?.schema,
      answers: new Map(Object.entries(responses).map(([status, { content }]) => [Number(status), closed(content)])),
    })),
  );
}

/** Clients must ignore a key that they do not know, but the service of this build sends none that it does not describe. */
function closed<Value>(value: Value): Value {
  if (Array.isArray(value)) return value.map(closed) as Value;
  if (typeof value !== 'object' || value === null) return value;
  // Operations share objects, and each object is compiled once.
  const known = copies.get(value);
  if (known !== undefined) return known as Value;
  const members = Object.fromEntries(Object.entries(value).map(([key, member]) => [key, closed(member as unknown)]));
  const isObject = typeof members['properties'] === 'object' && members['additionalProperties'] === undefined;
  const copy = { ...members, ...(isObject && { additionalProperties: false }) };
  copies.set(value, copy);
  return copy as Value;
}

const copies = new WeakMap<object, object>();

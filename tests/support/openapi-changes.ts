// Compares two versions of the OpenAPI document, and names every change that can break a client of the former one. Additions to
// answers break no client: it must ignore a key, a value of an enumeration or a status that it does not know.
import { dereferenced } from './dereferenced.js';

interface Schema {
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly anyOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly pattern?: string;
  readonly [bound: string]: unknown;
}

interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly required?: boolean;
  readonly schema?: Schema;
}

type Content = Readonly<Record<string, { readonly schema?: Schema }>>;

interface Operation {
  readonly operationId?: string;
  readonly security?: readonly object[];
  readonly 'x-permission'?: string;
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly content?: Content };
  readonly responses: Readonly<Record<string, { readonly content?: Content; readonly headers?: object }>>;
}

/** The part of a document that is compared. */
export interface ComparedDocument {
  readonly components?: { readonly schemas?: object };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

/** One sentence for each change that can break a client. */
export function breakingChanges(before: ComparedDocument, after: ComparedDocument): string[] {
  const [former, present] = [dereferenced(before), dereferenced(after)];
  const operations = Object.entries(former.paths).flatMap(([path, methods]) =>
    Object.entries(methods).flatMap(([method, operation]) => {
      const name = `${method.toUpperCase()} ${path}`;
      const now = present.paths[path]?.[method];
      return now ? changesOf(operation, now).map((change) => `${name}: ${change}`) : [`${name} is gone`];
    }),
  );
  const schemas = missing(Object.keys(before.components?.schemas ?? {}), Object.keys(after.components?.schemas ?? {}));
  return [...operations, ...schemas.map((name) => `the schema ${name} is gone`)];
}

const missing = <T>(all: readonly T[], present: readonly T[]): T[] => all.filter((one) => !present.includes(one));

function changesOf(before: Operation, after: Operation): string[] {
  const changes: string[] = [];
  if (before.operationId !== undefined && before.operationId !== after.operationId)
    changes.push(`the operationId ${before.operationId} is now ${String(after.operationId)}`);
  if (before.security?.length === 0 && after.security?.length !== 0) changes.push('needs a token now');
  if (after['x-permission'] !== undefined && after['x-permission'] !== before['x-permission'])
    changes.push(`needs the permission ${after['x-permission']} now`);
  changes.push(...parameterChanges(before.parameters ?? [], after.parameters ?? []));

  const [bodyBefore, bodyAfter] = [bodyOf(before.requestBody?.content), bodyOf(after.requestBody?.content)];
  if (bodyBefore && bodyAfter) changes.push(...narrowed(bodyBefore, bodyAfter, 'the body'));
  else if (bodyAfter) changes.push('needs a body now');
  else if (bodyBefore) changes.push('takes no body any more');

  for (const [status, answer] of Object.entries(before.responses).filter(([code]) => code.startsWith('2'))) {
    const now = after.responses[status];
    if (!now) {
      changes.push(`does not answer ${status} any more`);
      continue;
    }
    const headers = missing(Object.keys(answer.headers ?? {}), Object.keys(now.headers ?? {}));
    changes.push(...headers.map((header) => `the answer ${status} has no header ${header} any more`));
    const [schema, schemaNow] = [bodyOf(answer.content), bodyOf(now.content)];
    if (schema && schemaNow) changes.push(...widened(schema, schemaNow, `the answer ${status}`));
    else if (schema) changes.push(`the answer ${status} has no body any more`);
  }
  return changes;
}

const bodyOf = (content: Content | undefined): Schema | undefined => Object.values(content ?? {})[0]?.schema;

function parameterChanges(before: readonly Parameter[], after: readonly Parameter[]): string[] {
  const find = (list: readonly Parameter[], { name, in: place }: Parameter): Parameter | undefined =>
    list.find((other) => other.name.toLowerCase() === name.toLowerCase() && other.in === place);
  const words = ({ name, in: place }: Parameter): string => `the ${place} parameter ${name}`;
  return [
    ...before.flatMap((parameter) => {
      const now = find(after, parameter);
      if (!now) return [`${words(parameter)} is gone`];
      return narrowed(parameter.schema ?? {}, now.schema ?? {}, words(parameter));
    }),
    ...after
      .filter((parameter) => parameter.required && !find(before, parameter)?.required)
      .map((parameter) => `${words(parameter)} is needed now`),
  ];
}

const LOWER_BOUNDS = ['minimum', 'exclusiveMinimum', 'minLength', 'minItems', 'minProperties'];
const UPPER_BOUNDS = ['maximum', 'exclusiveMaximum', 'maxLength', 'maxItems', 'maxProperties'];

/** What a request could have before and must not have now. */
function narrowed(before: Schema, after: Schema, where: string): string[] {
  const alternatives = optionsOf(before);
  if (alternatives.length > 1 || optionsOf(after).length > 1)
    return alternatives
      .filter((option) => !optionsOf(after).some((now) => narrowed(option, now, where).length === 0))
      .map((option) => `${where} does not take ${nameOf(option)} as before`);

  const changes = missing(typesOf(before), accepted(after)).map((type) => `${where} takes no ${type} any more`);
  const values = valuesOf(after);
  if (values) {
    const gone = missing(valuesOf(before) ?? [], values);
    if (!valuesOf(before)) changes.push(`${where} takes only certain values now`);
    changes.push(...gone.map((value) => `${where} does not take ${JSON.stringify(value)} any more`));
  }
  for (const bound of [...LOWER_BOUNDS, ...UPPER_BOUNDS]) {
    const [was, now] = [before[bound], after[bound]] as [number | undefined, number | undefined];
    if (now === undefined) continue;
    if (was === undefined || (LOWER_BOUNDS.includes(bound) ? now > was : now < was))
      changes.push(`${where} has the ${bound} ${now} now`);
  }
  for (const rule of ['pattern', 'format'])
    if (after[rule] !== undefined && after[rule] !== before[rule]) changes.push(`${where} has another ${rule} now`);
  for (const [key, schema] of Object.entries(before.properties ?? {})) {
    const now = after.properties?.[key];
    changes.push(...(now ? narrowed(schema, now, `${where}/${key}`) : [`${where}/${key} is gone`]));
  }
  changes.push(...missing(after.required ?? [], before.required ?? []).map((key) => `${where}/${key} is needed now`));
  if (before.items && after.items) changes.push(...narrowed(before.items, after.items, `${where}/*`));
  return changes;
}

/** What an answer can be now and was not before, and what it lacks now. */
function widened(before: Schema, after: Schema, where: string): string[] {
  const alternatives = optionsOf(after);
  if (alternatives.length > 1 || optionsOf(before).length > 1)
    return alternatives
      .filter((option) => !optionsOf(before).some((was) => widened(was, option, where).length === 0))
      .map((option) => `${where} can be ${nameOf(option)} now`);

  const changes = missing(typesOf(after), accepted(before)).map((type) => `${where} can be ${type} now`);
  if (typesOf(after).length === 0 && typesOf(before).length > 0) changes.push(`${where} can be anything now`);
  for (const [key, schema] of Object.entries(before.properties ?? {})) {
    const now = after.properties?.[key];
    changes.push(...(now ? widened(schema, now, `${where}/${key}`) : [`${where}/${key} is gone`]));
  }
  const optional = missing(before.required ?? [], after.required ?? []).filter((key) => after.properties?.[key]);
  changes.push(...optional.map((key) => `${where}/${key} can be absent now`));
  if (before.items && after.items) changes.push(...widened(before.items, after.items, `${where}/*`));
  return changes;
}

const optionsOf = (schema: Schema): readonly Schema[] => schema.anyOf ?? [schema];
const typesOf = ({ type }: Schema): readonly string[] => (typeof type === 'string' ? [type] : (type ?? []));
const valuesOf = (schema: Schema): readonly unknown[] | undefined =>
  schema.const === undefined ? schema.enum : [schema.const];

const ANY_TYPE = ['array', 'boolean', 'integer', 'null', 'number', 'object', 'string'];

/** The types of values that a schema allows. A number can be a whole number. */
function accepted(schema: Schema): readonly string[] {
  const types = typesOf(schema);
  if (types.length === 0) return ANY_TYPE;
  return types.includes('number') ? [...types, 'integer'] : types;
}

const nameOf = (schema: Schema): string => typesOf(schema).join(' or ') || 'a value of that form';

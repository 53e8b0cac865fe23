// Compares the schemas of two databases, and names what differs in words.
import {
  OBJECT_KINDS,
  type DatabaseSchema,
  type ObjectKind,
  type SchemaObject,
} from '../../db/server/schema-objects.js';

export interface SchemaDifference {
  readonly kind: ObjectKind;
  /** `products.price`, `stamp_audit()`, `the database`. */
  readonly object: string;
  /** `type numeric(12,2)`, or `no such column`. */
  readonly expected: string;
  readonly found: string;
}

export interface SchemaDifferences {
  readonly total: number;
  /** The first MOST_NAMED, in order of OBJECT_KINDS and then of the object's name. */
  readonly differences: readonly SchemaDifference[];
}

/** Differences that are named. The others are only counted. */
export const MOST_NAMED = 100;

/** Longest text of a difference, in UTF-16 units. */
const LONGEST = 300;

/** Of a longer text, so much is shown before the first character that differs. */
const LEAD = 60;

/** Objects that the owner of an adopted database may have beside ours. */
const OWN_OBJECTS: readonly ObjectKind[] = ['schema', 'extension', 'type', 'table', 'view', 'sequence', 'function'];

/** Facts whose value is a phrase by itself. */
const PHRASES = ['sort', 'nulls', 'persistence', 'row security', 'validity', 'enabled', 'definition', 'rights'];

/** What goes without saying when a whole object is described. */
const ORDINARY = ['nullable', 'logged', 'row security off', 'enabled', 'valid', 'checked for all rows'];

/**
 * Names each object that is missing, unexpected or different. A part of an object that is missing or unexpected is not named: a
 * table without its columns is one difference.
 *
 * @param options.adopted the database existed before its tenant: its own tables, schemas and functions are no differences
 */
export function compareSchemas(
  expected: DatabaseSchema,
  found: DatabaseSchema,
  { adopted = false }: { readonly adopted?: boolean } = {},
): SchemaDifferences {
  const wanted = byId(expected);
  const present = byId(found);
  const isOnOneSide = (id: string): boolean => wanted.has(id) !== present.has(id);
  const isPartOfOther = ({ parent }: SchemaObject): boolean => {
    const whole = parent === null ? undefined : (wanted.get(parent) ?? present.get(parent));
    return whole !== undefined && (isOnOneSide(whole.id) || isPartOfOther(whole));
  };
  const ids = new Set([...wanted.keys(), ...present.keys()]);
  for (const id of rightsOfOtherOwners(wanted, present)) ids.delete(id);

  const differences = [...ids].flatMap((id): (SchemaDifference & { readonly id: string })[] => {
    const one = wanted.get(id);
    const other = present.get(id);
    const object = one ?? other;
    if (!object || isPartOfOther(object)) return [];
    if (!one && adopted && OWN_OBJECTS.includes(object.kind)) return [];
    const words = one && other ? differingFacts(one, other) : onlyOn(one, other);
    return words ? [{ id, kind: object.kind, object: shortened(object.name), ...words }] : [];
  });
  return limited(
    differences.sort(
      (a, b) => order(a.kind) - order(b.kind) || compareText(a.object, b.object) || compareText(a.id, b.id),
    ),
  );
}

/** The answer for a list of differences that is in order. */
export function limited(differences: readonly SchemaDifference[]): SchemaDifferences {
  return {
    total: differences.length,
    differences: differences
      .slice(0, MOST_NAMED)
      .map(({ kind, object, expected, found }) => ({ kind, object, expected, found })),
  };
}

/** `products.price: expected type numeric(12,2), found type numeric(14,2)` */
export function inWords({ object, expected, found }: SchemaDifference): string {
  return `${object}: expected ${expected}, found ${found}`;
}

function byId(schema: DatabaseSchema): ReadonlyMap<string, SchemaObject> {
  return new Map(schema.map((object) => [object.id, object]));
}

/** An owner has all rights. If another role owns an object, that is one difference, and the rights of that role are no others. */
function rightsOfOtherOwners(
  wanted: ReadonlyMap<string, SchemaObject>,
  present: ReadonlyMap<string, SchemaObject>,
): string[] {
  return [...present.values()].flatMap(({ id, facts: { owner } }) => {
    const usual = wanted.get(id)?.facts['owner'];
    return owner && usual && owner !== usual ? [`grant on ${id} to ${owner}`] : [];
  });
}

type Words = Pick<SchemaDifference, 'expected' | 'found'>;

function onlyOn(one: SchemaObject | undefined, other: SchemaObject | undefined): Words {
  return { expected: shortened(described(one, other)), found: shortened(described(other, one)) };
}

/** @param same the same object in the other database */
function described(object: SchemaObject | undefined, same: SchemaObject | undefined): string {
  if (!object) return same?.kind === 'grant' ? `${same.facts['role']}: no rights` : `no such ${same?.kind}`;
  if (object.kind === 'grant') return `${object.facts['role']}: ${object.facts['rights']}`;
  const phrases = Object.entries(object.facts).flatMap(([name, value]) =>
    value === null ? [] : [phrase(name, value)],
  );
  return phrases.filter((each) => !ORDINARY.includes(each)).join(', ') || `a ${object.kind}`;
}

/** Undefined if all facts agree. */
function differingFacts(one: SchemaObject, other: SchemaObject): Words | undefined {
  const names = [...new Set([...Object.keys(one.facts), ...Object.keys(other.facts)])].filter((name) => {
    const [expected, found] = [one.facts[name] ?? null, other.facts[name] ?? null];
    // A constraint that a person had checked for all rows promises more.
    const isMore = name === 'validity' && one.kind === 'constraint' && found === 'checked for all rows';
    return expected !== found && !isMore;
  });
  if (names.length === 0) return undefined;
  const words = ({ kind, facts }: SchemaObject): string =>
    (kind === 'grant' ? `${facts['role']}: ` : '') + names.map((name) => phrase(name, facts[name] ?? null)).join(', ');
  const [expected, found] = [inline(words(one)), inline(words(other))];
  const start = firstDifference(expected, found) - LEAD;
  return { expected: shortened(expected, start), found: shortened(found, start) };
}

function phrase(name: string, value: string | null): string {
  if (value === null) return `no ${name}`;
  if (name === 'owner') return `owned by ${value}`;
  return PHRASES.includes(name) ? value : `${name} ${value}`;
}

function firstDifference(one: string, other: string): number {
  let at = 0;
  while (at < one.length && one[at] === other[at]) at += 1;
  return at;
}

function inline(text: string): string {
  return text.replaceAll(/\s+/g, ' ').trim();
}

/** @param start of a text that is too long, the characters before it are left out */
function shortened(text: string, start = 0): string {
  const line = inline(text);
  if (line.length <= LONGEST) return line;
  // Room for the marks of what is left out.
  const room = LONGEST - 4;
  const from = Math.max(0, Math.min(start, line.length - room));
  const cut = line.slice(from, from + room).toWellFormed();
  return `${from > 0 ? '… ' : ''}${cut}${from + room < line.length ? ' …' : ''}`;
}

function order(kind: ObjectKind): number {
  return OBJECT_KINDS.indexOf(kind);
}

function compareText(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0;
}

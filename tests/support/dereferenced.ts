// An OpenAPI document without references, for tests that look at what an operation has, and not at how it is written.

type Json = Readonly<Record<string, unknown>>;

/**
 * A copy of the document in which each reference is replaced by what it refers to. A `description` beside a reference wins, as in
 * OpenAPI 3.1.
 *
 * @throws Error for a reference that leads nowhere
 */
export function dereferenced<Document>(document: Document): Document {
  const known = new Map<string, unknown>();
  const resolve = (reference: string): unknown => {
    if (!known.has(reference)) {
      const found = reference
        .slice('#/'.length)
        .split('/')
        .reduce<unknown>((value, key) => (value as Json | undefined)?.[key], document);
      if (found === undefined) throw new Error(`the reference ${reference} leads nowhere`);
      known.set(reference, copy(found));
    }
    return known.get(reference);
  };
  const copy = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(copy);
    if (typeof value !== 'object' || value === null) return value;
    const { $ref, ...rest } = value as Json;
    const members = Object.fromEntries(Object.entries(rest).map(([key, member]) => [key, copy(member)]));
    return typeof $ref === 'string' ? { ...(resolve($ref) as Json), ...members } : members;
  };
  return copy(document) as Document;
}

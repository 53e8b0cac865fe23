// Whether two requests are the same one: by a hash that is kept with an Idempotency-Key. It is keyed, because the request has
// a password in it, which a plain hash would let anybody guess who reads the registry.
import { createHmac, timingSafeEqual } from 'node:crypto';

export interface RequestHash {
  /** `<kid>.<hash>`. */
  of(request: unknown): string;
  /** False too where the key that it was made with is gone. */
  matches(request: unknown, hash: string): boolean;
}

/** @param keys those of ENCRYPTION_KEYS: the first is used, all are known */
export function createRequestHash(keys: readonly { readonly kid: string; readonly key: Buffer }[]): RequestHash {
  const [current] = keys;
  if (!current) throw new Error('a request hash needs a key');
  // A key of its own, so that nothing that is hashed here says anything about what is encrypted with the other.
  const hash = (key: Buffer, request: unknown): string =>
    createHmac('sha256', createHmac('sha256', key).update('tenantry request hash').digest())
      .update(JSON.stringify(sorted(request)))
      .digest('base64url');
  return {
    of: (request) => `${current.kid}.${hash(current.key, request)}`,
    matches(request, known) {
      const [kid, expected = ''] = known.split('.');
      const key = keys.find((candidate) => candidate.kid === kid)?.key;
      if (!key) return false;
      const [mine, theirs] = [Buffer.from(hash(key, request)), Buffer.from(expected)];
      return mine.length === theirs.length && timingSafeEqual(mine, theirs);
    },
  };
}

/** With the keys of objects in one order: a client may write them in any. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.entries(value)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, inner]) => [key, sorted(inner)]);
}

// Compares requests by a hash that is stored with the Idempotency-Key. The hash is keyed, because the request contains a
// password. With a plain hash, a reader of the registry could guess the password.
import { createHmac, timingSafeEqual } from 'node:crypto';

export interface RequestHash {
  /** `<kid>.<hash>`. */
  of(request: unknown): string;
  /** Also false if the key of the hash was removed. */
  matches(request: unknown, hash: string): boolean;
}

/** @param keys the keys of ENCRYPTION_KEYS: the first makes new hashes, all of them check stored hashes */
export function createRequestHash(keys: readonly { readonly kid: string; readonly key: Buffer }[]): RequestHash {
  const [current] = keys;
  if (!current) throw new Error('a request hash needs a key');
  // A separate derived key: these hashes then reveal nothing about what the encryption key encrypts.
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

/** Sorts the keys of objects, because a client may write them in any order. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.entries(value)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, inner]) => [key, sorted(inner)]);
}

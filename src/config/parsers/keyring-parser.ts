// Keyrings: lists of 256-bit keys, each with an id.
import type { EncryptionKey } from '../config-types.js';

/**
 * Parses keys in the form of ENCRYPTION_KEYS: `kid:base64,kid:base64`.
 *
 * @param ctx the context of a zod transform; it receives the issue instead of an Error
 * @throws Error, without `ctx`, if two ids are equal or a key does not have 32 bytes
 */
export function parseKeyring(text: string, ctx?: { addIssue(message: string): void }): readonly EncryptionKey[] {
  const keys = text.split(',').map((entry) => {
    const [kid = '', encoded = ''] = entry.trim().split(':', 2);
    return { kid, key: Buffer.from(encoded, 'base64') };
  });
  const valid = keys.every(({ kid, key }) => /^[\w-]{1,32}$/.test(kid) && key.length === 32);
  if (!valid || new Set(keys.map(({ kid }) => kid)).size !== keys.length) {
    const message = 'must be kid:base64 pairs with different ids and keys of 32 bytes (openssl rand -base64 32)';
    if (!ctx) throw new Error(`ENCRYPTION_KEYS ${message}`);
    ctx.addIssue(message);
  }
  return keys;
}

// The keys of access tokens, which two variables give together: JWT_KEYS and JWT_SECRET.
import { keyOfSecret, signingKey, type TokenKey } from '../auth/keyring.js';
import type { ParsedVariables } from './parsed-variables.js';

/** The keys of JWT_KEYS, then the key of JWT_SECRET. Undefined if neither variable is set. */
export function readAccessTokenKeys(
  { JWT_KEYS, JWT_SECRET }: ParsedVariables,
  problems: string[],
): readonly TokenKey[] | undefined {
  if (!JWT_KEYS && !JWT_SECRET) return undefined;
  const keys = [...(JWT_KEYS ?? []), ...(JWT_SECRET ? [keyOfSecret(JWT_SECRET)] : [])];
  if (!signingKey(keys))
    problems.push('JWT_KEYS has public keys only, which cannot sign: add a private key, or set JWT_SECRET');
  return keys;
}

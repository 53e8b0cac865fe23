// Variables that hold keys: of access tokens, of refresh tokens, and of encryption at rest.
import { z } from 'zod';
import { isPem, parseTokenKeys } from '../../auth/keyring.js';
import { parseKeyring } from '../parsers/keyring-parser.js';
import type { Variable } from './variable-types.js';

export const keyVariables = {
  JWT_KEYS: {
    schema: z.string().transform(parseTokenKeys),
    default: '',
    unit: 'kid:base64,…',
    description:
      'Keys of access tokens, Ed25519 or P-256 in DER. The first private key signs; all verify ([keys.md](keys.md)). Neither JWT_KEYS nor JWT_SECRET set (and not in production): generated on the first start.',
    secret: true,
  },
  JWT_SECRET: {
    schema: z
      .string()
      .min(32, 'must have at least 32 characters')
      // As an HMAC secret, a public key would let everyone sign who knows it.
      .refine((text) => !isPem(text), 'must not be a key in PEM: set JWT_KEYS instead'),
    default: '',
    unit: 'text',
    description:
      'A key of access tokens for HS256: at least 32 random characters. It comes after the keys of JWT_KEYS, and signs only if none of them can.',
    secret: true,
  },
  REFRESH_TOKEN_KEYS: {
    schema: z.string().transform(parseKeyring),
    default: '',
    unit: 'kid:base64,…',
    description:
      'Keys of refresh tokens, 32 bytes each. The first key signs; all verify ([keys.md](keys.md#keys-of-refresh-tokens)). Not set: derived from ENCRYPTION_KEYS.',
    secret: true,
  },
  ENCRYPTION_KEYS: {
    schema: z.string().transform(parseKeyring),
    default: '',
    unit: 'kid:base64,…',
    description:
      'Keys that encrypt database passwords at rest, 32 bytes each. The first key encrypts; all decrypt. Not set (and not in production): generated on the first start.',
    secret: true,
  },
} as const satisfies Record<string, Variable>;

// Encrypts the passwords of databases at rest: AES-256-GCM, bound to the row and the column that the password belongs to.
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';

/** What a ciphertext is bound to. If the host, port or user of a row was changed by hand, its password no longer decrypts. */
export interface EnvelopeContext {
  /** The id of the row. */
  readonly id: string;
  readonly host: string;
  readonly port: number;
  readonly user: string;
}

export interface Envelope {
  /** `v1.<kid>.<iv>.<ciphertext>.<tag>`, each part base64url. */
  seal(secret: string, context: EnvelopeContext): string;
  /** @throws Error without any part of the secret: the key is unknown, or the text was not sealed for this context */
  open(sealed: string, context: EnvelopeContext): string;
}

/** The columns that share ciphertexts: a standby database's password becomes its tenant's. */
export type EnvelopeColumn = 'tenants.db_password' | 'clusters.provisioner_password';

const VERSION = 'v1';
const IV_BYTES = 12;
/** The length is always checked: Node 20 would accept a tag that was cut to four bytes. */
const TAG_BYTES = 16;

/**
 * @param keys 32 bytes each; the first key seals, and all keys open
 * @param column a ciphertext of another column does not open
 */
export function createEnvelope(
  keys: readonly { readonly kid: string; readonly key: Buffer }[],
  column: EnvelopeColumn = 'tenants.db_password',
): Envelope {
  const current = keys[0];
  if (!current) throw new Error('an envelope needs a key');
  return {
    seal(secret, context) {
      const iv = randomBytes(IV_BYTES);
      const cipher = createCipheriv('aes-256-gcm', current.key, iv, { authTagLength: TAG_BYTES });
      cipher.setAAD(additionalData(column, current.kid, context));
      const parts = [iv, Buffer.concat([cipher.update(secret, 'utf8'), cipher.final()]), cipher.getAuthTag()];
      return [VERSION, current.kid, ...parts.map((part) => part.toString('base64url'))].join('.');
    },

    open(sealed, context) {
      const [version, kid = '', ...encoded] = sealed.split('.');
      const key = keys.find((candidate) => candidate.kid === kid)?.key;
      if (version !== VERSION || encoded.length !== 3)
        throw new Error('a database password is not in a known envelope');
      if (!key)
        throw new Error(`a database password is sealed with the key "${kid}", which ENCRYPTION_KEYS does not hold`);
      const [iv, ciphertext, tag] = encoded.map((part) => Buffer.from(part, 'base64url')) as [Buffer, Buffer, Buffer];
      if (tag.length !== TAG_BYTES) throw new Error('a database password has a tag of the wrong length');
      const decipher = createDecipheriv('aes-256-gcm', key, iv, { authTagLength: TAG_BYTES });
      decipher.setAAD(additionalData(column, kid, context));
      decipher.setAuthTag(tag);
      return Buffer.concat([decipher.update(ciphertext), decipher.final()]).toString('utf8');
    },
  };
}

/** JSON, so that two different contexts can never give the same bytes. */
function additionalData(column: string, kid: string, { id, host, port, user }: EnvelopeContext): Buffer {
  return Buffer.from(JSON.stringify([VERSION, kid, column, id, host, port, user]));
}

// SCRAM-SHA-256 verifiers, computed in this process, so that no statement that sets a password contains the password: the server
// logs the text of a failed CREATE ROLE.
import { createHash, createHmac, pbkdf2, randomBytes } from 'node:crypto';
import { promisify } from 'node:util';

const derive = promisify(pbkdf2);

/**
 * A verifier as PostgreSQL stores it: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (RFC 5802, RFC 7677).
 *
 * @param password printable ASCII: the SASLprep of other characters is not implemented here
 * @param iterations 4,096 (RFC 7677) for passwords that people choose. A random 256-bit password cannot be guessed, however
 *   cheap one guess is, and each new connection costs the iterations.
 */
export async function scramVerifier(password: string, iterations: number): Promise<string> {
  if (!/^[\x20-\x7e]+$/.test(password)) throw new TypeError('a password for a role must be printable ASCII');
  const salt = randomBytes(16);
  const salted = await derive(password, salt, iterations, 32, 'sha256');
  const key = (name: string): Buffer => createHmac('sha256', salted).update(name).digest();
  const storedKey = createHash('sha256').update(key('Client Key')).digest('base64');
  return `SCRAM-SHA-256$${String(iterations)}:${salt.toString('base64')}$${storedKey}:${key('Server Key').toString('base64')}`;
}

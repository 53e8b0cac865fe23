// Files of CA certificates. They are read at the start, so that a bad file stops the start and not a connection later.
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';

/**
 * Reads certificates in PEM.
 *
 * @param name the variable, for the problems
 * @param file undefined if the variable is not set
 * @param problems receives a sentence if the file cannot be read or has no certificate
 * @returns an object without `ca` if there is no such file
 */
export function readCaFile(name: string, file: string | undefined, problems: string[]): { ca?: string } {
  if (file === undefined) return {};
  let ca: string;
  try {
    ca = readFileSync(file, 'utf8');
  } catch {
    problems.push(`${name} cannot be read: ${file}`);
    return {};
  }
  try {
    // TLS accepts text without a certificate silently, and then trusts no server.
    new X509Certificate(ca);
  } catch {
    problems.push(`${name} holds no certificate in PEM: ${file}`);
  }
  return { ca };
}

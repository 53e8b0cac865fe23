// Secrets from files: NAME_FILE names a file that holds the value of NAME. Unlike an environment variable, a file does not show
// in `docker inspect`, in /proc or in a crash report.
import { readFileSync } from 'node:fs';

/** The variable that names a secret's file: `JWT_SECRET_FILE` for `JWT_SECRET`. */
export function fileVariableOf(name: string): string {
  return `${name}_FILE`;
}

/** Longest secret in a file (bytes). */
const MAX_LENGTH = 64 * 1024;

/**
 * A copy of the environment with the secrets from files added. One line break at the end of a file is not part of the secret.
 *
 * @param names the variables that are secrets
 * @param problems receives a sentence for each file that cannot be used and for each secret that is given twice; no sentence
 *   repeats a secret
 */
export function withSecretFiles(
  env: NodeJS.ProcessEnv,
  names: readonly string[],
  problems: string[],
): NodeJS.ProcessEnv {
  const secrets: Record<string, string> = {};
  for (const name of names) {
    const variable = fileVariableOf(name);
    const file = env[variable];
    if (file === undefined || file === '') continue;
    if (env[name]) {
      problems.push(`${name} and ${variable} are both set: set one of them`);
      continue;
    }
    const secret = readSecret(file);
    if (typeof secret === 'string') secrets[name] = secret;
    else problems.push(`${variable} ${secret.problem}: ${file}`);
  }
  return { ...env, ...secrets };
}

function readSecret(file: string): string | { readonly problem: string } {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    return { problem: `names a file that cannot be read (${code})` };
  }
  if (bytes.length > MAX_LENGTH) return { problem: `names a file of more than ${MAX_LENGTH / 1_024} KiB` };
  const text = bytes.toString('utf8').replace(/\r?\n$/, '');
  if (text === '') return { problem: 'names a file that is empty' };
  // Two lines are two secrets or a key in PEM. No variable holds either.
  if (/[\n\0]/.test(text)) return { problem: 'names a file that must hold one line' };
  return text;
}

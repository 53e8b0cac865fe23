// Rules that hold only with NODE_ENV=production: nothing is generated, and weak keys are refused.
import type { ParsedVariables, VariableName } from './parsed-variables.js';

/** Fewest different bytes or characters in a key. A random key has more; a typed or repeated one often has fewer. */
const MIN_DIFFERENT = 10;

const NEW_SECRET = 'make one with: openssl rand -base64 48';
const NEW_KEY = 'make one with: openssl rand -base64 32';

/** Checks required variables, the strength of keys and the first operator. `problems` receives a sentence for each. */
export function checkProduction(env: NodeJS.ProcessEnv, values: ParsedVariables, problems: string[]): void {
  checkRequired(env, problems);
  checkStrength(values, problems);
  if (env['OPERATOR_EMAIL'] && !env['OPERATOR_PASSWORD'])
    problems.push('OPERATOR_EMAIL is set and OPERATOR_PASSWORD is not: set both, or neither');
}

function checkRequired(env: NodeJS.ProcessEnv, problems: string[]): void {
  const required: Partial<Record<VariableName, string>> = {
    DATABASE_URL: 'production does not start an embedded PostgreSQL',
    DATABASE_TLS: 'set verify-full, or off if the network is private',
    ...(!env['JWT_SECRET'] && {
      JWT_KEYS: 'make one with: echo "k1:$(openssl genpkey -algorithm ed25519 -outform DER | openssl base64 -A)"',
    }),
    ENCRYPTION_KEYS: 'make one with: echo "k1:$(openssl rand -base64 32)"',
  };
  for (const [name, hint] of Object.entries(required)) {
    if (!env[name]) problems.push(`${name} is not set (${hint})`);
  }
}

function checkStrength(values: ParsedVariables, problems: string[]): void {
  const secret = values.JWT_SECRET;
  if (secret && isWeak(secret)) problems.push(`JWT_SECRET is weak: ${NEW_SECRET}`);
  for (const { kid, alg, verifies } of values.JWT_KEYS ?? []) {
    if (alg === 'HS256' && isWeak(verifies.export()))
      problems.push(`JWT_KEYS: the secret ${kid} is weak: ${NEW_SECRET}`);
  }
  for (const name of ['ENCRYPTION_KEYS', 'REFRESH_TOKEN_KEYS'] as const) {
    for (const { kid, key } of values[name] ?? []) {
      if (isWeak(key)) problems.push(`${name}: the key ${kid} is weak: ${NEW_KEY}`);
    }
  }
}

function isWeak(secret: Iterable<unknown>): boolean {
  return new Set(secret).size < MIN_DIFFERENT;
}

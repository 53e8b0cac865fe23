// How the person who starts the service gets the password of the first operator, if the start made one up: on the terminal, once.
// If standard output is no terminal it may be a log that others read, so a file takes the password.
import { open, rename } from 'node:fs/promises';
import path from 'node:path';

export interface OperatorSignIn {
  readonly email: string;
  readonly password: string;
}

/** In DATA_DIR. Its lines are assignments of a shell: `. .data/operator.env` */
export const SIGN_IN_FILE = 'operator.env';

/** The two lines that every page and test uses. The made-up password has only characters that a shell leaves as they are. */
export function signInLines({ email, password }: OperatorSignIn): string[] {
  return [`OPERATOR_EMAIL=${email}`, `OPERATOR_PASSWORD=${password}`];
}

/** Writes the sign-in to a file that only its owner can read (mode 0600), and replaces an older one. Returns its path. */
export async function writeSignIn(dataDir: string, signIn: OperatorSignIn): Promise<string> {
  const file = path.join(dataDir, SIGN_IN_FILE);
  const draft = `${file}.new`;
  const handle = await open(draft, 'w', 0o600);
  try {
    // A draft that a crash left keeps its mode.
    await handle.chmod(0o600);
    await handle.writeFile(`${signInLines(signIn).join('\n')}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(draft, file);
  return file;
}

/**
 * What a terminal shows when the service listens.
 *
 * @param url where the service listens, without a slash at the end
 * @param api the same with the prefix of the API
 * @param seconds since the start began
 * @param signIn the first operator's, if this start made it up
 */
export function welcome(given: {
  readonly url: string;
  readonly api: string;
  readonly seconds: string;
  readonly signIn: OperatorSignIn | undefined;
}): string {
  const { url, api, seconds, signIn } = given;
  const lines = [
    '',
    `  Tenantry is ready after ${seconds} s. Ctrl-C stops it.`,
    '',
    `    Address        ${url}`,
    `    Documentation  ${url}/docs`,
    '',
    ...(signIn
      ? [
          '  Sign in as the operator. The password is shown this once. Paste this into a second terminal:',
          '',
          ...[`URL=${api}`, ...signInLines(signIn), ...LOGIN].map((line) => `    ${line}`),
          '',
          '  The answer has an access token. README.md goes on with "A walk with curl".',
        ]
      : ['  The password of an operator is lost? Set a new one: npm run operator:reset-password']),
    '',
  ];
  return `${lines.join('\n')}\n`;
}

const LOGIN = [
  `curl -sS "$URL/auth/operator/login" -H 'content-type: application/json' \\`,
  `  -d '{"email": "'"$OPERATOR_EMAIL"'", "password": "'"$OPERATOR_PASSWORD"'"}'`,
];

// The README's walk, as a newcomer types it: every `sh` block under its heading, in one shell.
import { blocksOf, ROOT, shellBlocksOf, type Block } from './docs.js';
import { runScript } from './shell.js';

const ADDRESS = 'http://127.0.0.1:3000';

/** The names that other pages use for the results of the walk. */
const NAMES = `TOKEN=$WAYNE
REFRESH=$(post /auth/login '{"tenant": "wayne", "email": "bruce@wayne.example", "password": "under the mansion"}' |
  node -pe 'JSON.parse(require("fs").readFileSync(0)).refreshToken')
TENANT=$(get /tenants -H "authorization: Bearer $OPERATOR" | node -pe 'JSON.parse(require("fs").readFileSync(0)).data[0].id')
OPERATION=$(get /operations -H "authorization: Bearer $OPERATOR" | node -pe 'JSON.parse(require("fs").readFileSync(0)).data[0].id')`;

/** The commands of the walk. */
export const WALK: readonly Block[] = shellBlocksOf('README.md').filter(
  ({ heading }) => heading === '## A walk with curl',
);

/**
 * Runs the walk against a service, and then further blocks in the same shell, in which `$TENANT` and `$TOKEN` are a tenant's id
 * and its admin's token. Returns the whole output.
 *
 * @throws Error if a command fails, or a request is not answered with success
 */
export async function walkReadme(
  url: string,
  operator: { readonly email: string; readonly password: string },
  behind: readonly Block[] = [],
): Promise<string> {
  if (WALK.length === 0 || blocksOf('README.md').length === WALK.length) throw new Error('README.md has lost its walk');
  const walk = WALK.map(({ text }) => text)
    .join('\n')
    // Only the person at the terminal knows these.
    .replace(/^OPERATOR_EMAIL=.*$/m, `OPERATOR_EMAIL='${operator.email}'`)
    .replace(/^OPERATOR_PASSWORD=.*$/m, `OPERATOR_PASSWORD='${operator.password}'`);
  const rest = behind.map(({ text }) => text).join('\n');
  const script = `curl() { command curl -sS --fail-with-body "$@"; }\n${walk}\n${NAMES}\n${rest}`;
  return runScript(script.replaceAll(ADDRESS, url), { cwd: ROOT });
}

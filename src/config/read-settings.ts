// From the environment to Settings, or to one ConfigError that lists everything that is wrong.
import { parseRedisUrl } from '../replicas/redis-settings.js';
import { readAccessTokenKeys } from './access-token-keys.js';
import { assembleSettings } from './assemble-settings.js';
import { ConfigError } from './config-error.js';
import type { Settings } from './config-types.js';
import { checkConsistency } from './consistency-rules.js';
import { readDatabaseConnections } from './database-connections.js';
import { deepFreeze } from './deep-freeze.js';
import { parseVariables, valueOf } from './parsed-variables.js';
import { readCaFile } from './parsers/ca-file.js';
import { checkProduction } from './production-rules.js';
import { withSecretFiles } from './secret-files.js';
import { secretVariables } from './variables/all-variables.js';

/**
 * Reads and checks the environment. An empty variable counts as not set.
 *
 * @param given for example processEnvironment()
 * @throws ConfigError with every problem, not only the first one
 */
export function readSettings(given: NodeJS.ProcessEnv): Settings {
  const problems: string[] = [];
  const env = withSecretFiles(given, secretVariables, problems);
  const values = parseVariables(env, problems);
  const production = valueOf(values, 'NODE_ENV') === 'production';

  const databases = readDatabaseConnections(env, values, problems);
  const redis = parseRedisUrl(
    values.REDIS_URL,
    {
      ...readCaFile('REDIS_CA_FILE', values.REDIS_CA_FILE, problems),
      timeout: valueOf(values, 'REDIS_TIMEOUT_MS'),
      production,
    },
    problems,
  );
  checkConsistency(env, values, problems);
  const tokenKeys = readAccessTokenKeys(values, problems);
  if (production) checkProduction(env, values, problems);
  if (problems.length > 0) throw new ConfigError(problems);

  return deepFreeze(assembleSettings(values, { databases, redis, tokenKeys }));
}

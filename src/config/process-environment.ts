// The only file of the service that reads process.env.

/** The environment of this process, unchecked. */
export function processEnvironment(): NodeJS.ProcessEnv {
  return process.env;
}

// The configuration of the service: every environment variable, read once and checked, as one frozen and typed object.
export { completeConfig, type FilledGaps } from './complete-config.js';
export { ConfigError } from './config-error.js';
export type { Config, EncryptionKey, Settings } from './config-types.js';
export { parseKeyring } from './parsers/keyring-parser.js';
export { processEnvironment } from './process-environment.js';
export { readSettings } from './read-settings.js';
export { fileVariableOf } from './secret-files.js';
export { secretVariables, variableGroups, variables } from './variables/all-variables.js';
export type { DerivedDefault, Variable, VariableGroup } from './variables/variable-types.js';

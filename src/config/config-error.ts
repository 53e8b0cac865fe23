// The error for an unusable configuration. Its message is the list that the person who starts the service reads.

/** A configuration that stops the start. The message has one line for each problem, and no problem repeats a secret. */
export class ConfigError extends Error {
  constructor(readonly problems: readonly string[]) {
    super(['The configuration is not usable:', ...problems.map((problem) => `  - ${problem}`)].join('\n'));
    this.name = 'ConfigError';
  }
}

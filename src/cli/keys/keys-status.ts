// `tenantry keys status`.
import type { EngineCommand } from '../terminal/cli-command.js';

export const keysStatus: EngineCommand = {
  name: 'status',
  about:
    'Shows which keys encrypt how many database passwords. A key that encrypts no password can be removed from ENCRYPTION_KEYS.',
  example: '--json',
  kind: 'reads',
  async run({ engine, out }) {
    const { outputKeys } = await import('./shown-keys.js');
    outputKeys(out, await engine.reencryption.uses());
    return undefined;
  },
};

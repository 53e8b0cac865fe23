// `tenantry keys rotate`.
import type { EngineCommand } from '../terminal/cli-command.js';
import { EXIT } from '../terminal/exit-codes.js';

export const keysRotate: EngineCommand = {
  name: 'rotate',
  about: 'Encrypts all database passwords with the first key of ENCRYPTION_KEYS now, and waits until that is done.',
  example: '--yes',
  notes:
    'Every replica must hold the key already: a replica without it cannot open connections for the tenants. The service does\nthe same by itself, within about a minute after a replica has started with the key in the first place.',
  kind: 'asks',
  async run(given) {
    const { planKeyRotation, rotateKeys } = await import('../../operations/key-rotation.js');
    const { progressBar } = await import('../terminal/progress-bar.js');
    const { outputKeys } = await import('./shown-keys.js');
    const { engine, out } = given;
    const plan = await planKeyRotation(engine);
    const origin = await given.origin();
    if (plan.kid !== plan.wanted)
      await given.ask(`Encrypt all passwords with the key "${plan.kid}"? Every replica must hold this key already.`);
    const bar = progressBar('encrypting again');
    try {
      const keys = await rotateKeys(engine, plan, origin, (done, total) => {
        bar.update(done, total);
      });
      bar.end();
      outputKeys(out, keys);
      return keys.some(({ current, rows }) => !current && rows > 0) ? EXIT.incomplete : undefined;
    } finally {
      bar.end();
    }
  },
};

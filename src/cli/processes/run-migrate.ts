// `tenantry migrate`: the same code as `npm run migrate`, which reads its own arguments.
import type { ProcessCommand } from '../terminal/cli-command.js';

export const migrate: ProcessCommand = {
  name: 'migrate',
  about: `Brings the registry, the template databases and every tenant's database to the newest schema. Safe to repeat.`,
  example: '',
  notes: 'The same as npm run migrate; npm run migrate -- --help shows its flags and its exit codes.',
  async start(args) {
    const [node = '', script = ''] = process.argv;
    process.argv = [node, script, ...args];
    await import('../migrate.js');
  },
};

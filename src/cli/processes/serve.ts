// `tenantry serve`: the service, as `npm start` runs it. The only command that loads the server.
import type { ProcessCommand } from '../terminal/cli-command.js';

export const serve: ProcessCommand = {
  name: 'serve',
  about: 'Serves the API until a signal stops it. SIGTERM and Ctrl-C let running requests finish.',
  example: '',
  notes: 'It reads its settings from the environment: docs/reference/configuration.md.',
  async start() {
    await import('../../server.js');
  },
};

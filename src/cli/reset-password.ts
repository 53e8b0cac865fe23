// `npm run operator:reset-password`: a new password for an operator who has lost it.
import { prepareCommand } from '../boot/index.js';
import { describeProblem } from '../boot/start-problem.js';
import { processEnvironment, readSettings } from '../config/index.js';
import type { EmbeddedCluster } from '../embedded/embedded-cluster.js';
import { createEngine, type Engine } from '../engine/index.js';
import { defineCommand, runCommand, text, toggle } from '../lib/command-line.js';
import { createLogger } from '../observability/logger.js';
import { endOnSignals } from './interruption.js';
import { checkSource } from './new-password.js';
import { setPassword } from './operators/set-password.js';
import { signInText } from './operators/shown-operator.js';

const resetPassword = defineCommand({
  start: 'npm run operator:reset-password --',
  about: `
Sets a new password for an operator, and ends all of its sessions. Works while the service runs and while it is stopped. Reads the
same environment as the service (docs/reference/configuration.md). On a terminal it asks for the password, or makes one up and
shows it once.`,
  flags: {
    email: text({
      what: 'the operator',
      placeholder: 'EMAIL',
      defaultText: 'the only one',
      example: 'you@example.com',
    }),
    stdin: toggle({ what: 'read the password from standard input' }),
    'password-file': text({ what: 'read the password from this file', placeholder: 'FILE' }),
  },
  notes: `
A password is never an argument, because every user of the machine can read arguments. After failed sign-ins the service may still
refuse the operator for up to 5 minutes.`,
  exits: { 0: 'the password is set', 1: 'nothing was changed' },
});

let embedded: EmbeddedCluster | undefined;
let engine: Engine | undefined;

endOnSignals();
await runCommand(resetPassword, async ({ flags }) => {
  const environment = processEnvironment();
  const source = { file: flags['password-file'], stdin: flags.stdin };
  checkSource(source);
  try {
    const settings = readSettings(environment);
    const { log } = settings;
    // The lines of the service's rooms are no answer to the person who types this.
    const quiet = createLogger({ ...log, level: ['debug', 'trace'].includes(log.level) ? log.level : 'error' });
    const config = await prepareCommand(settings, quiet, (cluster) => {
      embedded = cluster;
    });
    engine = await createEngine(config, quiet);
    const { operator, made, ended } = await setPassword(engine, settings.dataDir, { email: flags.email, source });
    process.stdout.write(`The new password of ${operator.email} is set. Sessions that have ended: ${ended}\n`);
    process.stdout.write(signInText(operator.email, made));
    return 0;
  } catch (error) {
    process.stderr.write(`${describeProblem(error, environment['LOG_LEVEL'] === 'debug')}\n`);
    return 1;
  } finally {
    await engine?.close();
    await embedded?.stop();
  }
});

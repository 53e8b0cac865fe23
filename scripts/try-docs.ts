// `npm run docs:try`: runs the commands of README.md and docs/**/*.md that take too long for `npm test`, one after the other.
import { defineCommand, runCommand, UsageError } from '../src/lib/command-line.js';
import { interruptStarted, SLOW_COMMANDS } from '../tests/support/slow-commands.js';
import { say } from './command.js';

const tryDocs = defineCommand({
  start: 'npm run docs:try --',
  about: `
Runs the commands of the documentation that take minutes, one after the other, each to its end or until it is ready. The
benchmark runs with one round of one second.`,
  flags: {},
  operands: { name: 'TEXT', what: 'only the commands that hold this text', min: 0, max: 1, example: 'topology' },
  notes: `
The commands:
${Object.keys(SLOW_COMMANDS)
  .map((command) => `  ${command}`)
  .join('\n')}
`,
  exits: { 0: 'all of them work', 1: 'one failed' },
});

await runCommand(tryDocs, async ({ operands: [text = ''] }) => {
  const asked = Object.entries(SLOW_COMMANDS).filter(([command]) => command.includes(text));
  if (asked.length === 0) throw new UsageError(`no command holds ${JSON.stringify(text)}`);
  process.on('SIGINT', () => {
    void interruptStarted().finally(() => process.exit(130));
  });
  let failed = 0;
  for (const [index, [command, run]] of asked.entries()) {
    say(`${index + 1}/${asked.length}  ${command}`);
    const since = performance.now();
    const error = await run().then(
      () => undefined,
      (reason: unknown) => reason,
    );
    const seconds = Math.round((performance.now() - since) / 1_000);
    if (error === undefined) say(`      done in ${seconds} s`);
    else {
      failed += 1;
      say(`      FAILED after ${seconds} s: ${describe(error)}`);
    }
  }
  say(failed === 0 ? 'all of them work' : `${failed} of ${asked.length} failed`);
  return failed === 0 ? 0 : 1;
});

/** The end of the command's output. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
  return [error.message, stdout, stderr].join('\n').split('\n').slice(-60).join('\n');
}

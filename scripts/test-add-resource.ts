// `npm run test:add-resource`: follows docs/inside/adding-a-resource.md to the letter on a copy of this folder, and runs the whole
// suite there.
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { addResource, copyEverything, followUps } from '../tests/support/source-copy.js';
import { runVisibly, say } from './command.js';

const testAddResource = defineCommand({
  start: 'npm run test:add-resource --',
  about: `
Copies this folder, adds the files and lines of docs/inside/adding-a-resource.md to the copy, runs the commands of that page, and
then its last one, \`npm test\`, with the whole suite. Takes as long as \`npm test\`.`,
  flags: {},
  passesTo: 'vitest run',
  notes: 'Example: npm run test:add-resource -- tests/unit',
  exits: { 0: 'all passed', 1: 'a command of the page or a test failed' },
});

await runCommand(testAddResource, async ({ operands }) => {
  say('1/4  copying this folder');
  const copy = await copyEverything();
  try {
    const files = await addResource(copy.folder);
    say(`2/4  added a resource in ${files.join(', ')}`);
    say(`3/4  ${followUps().join(', ')}`);
    for (const command of followUps()) if ((await runVisibly('bash', ['-euc', command], copy.folder)) !== 0) return 1;
    say('4/4  npm test');
    const args = operands.length > 0 ? ['--', ...operands] : [];
    return (await runVisibly('npm', ['test', ...args], copy.folder)) === 0 ? 0 : 1;
  } finally {
    await copy.remove();
  }
});

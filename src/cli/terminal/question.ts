// A question before an act that cannot be undone.
import { createInterface } from 'node:readline/promises';
import { CommandError, EXIT } from './exit-codes.js';

/**
 * Resolves if the person agrees.
 *
 * @param question ends with a question mark
 * @param yes the answer of a script, by --yes
 * @throws CommandError if the answer is not yes, or no terminal can ask
 */
export async function demandYes(question: string, yes: boolean): Promise<void> {
  if (yes) return;
  if (!(process.stdin.isTTY && process.stderr.isTTY))
    throw new CommandError(EXIT.usage, `${question} No terminal can ask. Give --yes to do it without this question.`);
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  lines.on('SIGINT', () => process.kill(process.pid, 'SIGINT'));
  // Ctrl-D ends the input without an answer.
  const left = new Promise<string>((resolve) => {
    lines.once('close', () => {
      resolve('');
    });
  });
  try {
    const answer = await Promise.race([lines.question(`${question} [y/N] `), left]);
    if (!/^y(es)?$/i.test(answer.trim())) throw new CommandError(EXIT.refused, 'Nothing was changed.');
  } finally {
    lines.close();
  }
}

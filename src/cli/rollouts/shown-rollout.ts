// How a command shows one rollout, and the exit code that says how it is.
import { showWithProgress, type ShownRollout } from '../../rollouts/rollout-shown.js';
import type { Given } from '../terminal/cli-command.js';
import { CommandError, EXIT, type ExitCode } from '../terminal/exit-codes.js';
import { fieldsOf, shortTime, tableOf } from '../terminal/table.js';
import type { Waiting } from './rollout-options.js';
import { waitForRollout } from './waited-rollout.js';

/**
 * Shows a rollout; with --wait, when it does not run any more.
 *
 * @returns after --wait `incomplete` unless every tenant is done or was skipped; otherwise none
 * @throws CommandError if it is not there any more
 */
export async function outputRollout(
  { engine: { rollouts }, options: { wait = false }, out }: Given<Waiting>,
  id: string,
): Promise<ExitCode | undefined> {
  if (wait) await waitForRollout(rollouts, id);
  const rollout = await rollouts.find(id);
  if (!rollout) throw new CommandError(EXIT.refused, `There is no rollout "${id}" any more.`);
  const shown = showWithProgress(rollout);
  const { progress } = shown;
  out.show(shown, (width) => {
    const fields = fieldsOf([
      ['id', shown.id],
      ['target', shown.target],
      ['state', shown.state],
      ['reason', shown.reason],
      ['plan', planText(shown)],
      [
        'tenants',
        `${progress.done} of ${progress.total} are done, ${progress.failed} failed, ${progress.skipped} skipped`,
      ],
      ['differences', shown.differences],
      ['first difference', shown.firstDifference],
      ['started by', shown.requestedBy],
      ['created', shortTime(shown.createdAt)],
      ['ended', shortTime(shown.finishedAt)],
    ]);
    const waves = tableOf(
      [
        { head: 'WAVE', of: ({ wave }) => (wave === 0 ? 'canary' : String(wave)) },
        { head: 'TENANTS', of: ({ total }) => total },
        { head: 'PENDING', of: ({ pending }) => pending },
        { head: 'RUNNING', of: ({ running }) => running },
        { head: 'DONE', of: ({ done }) => done },
        { head: 'FAILED', of: ({ failed }) => failed },
        { head: 'SKIPPED', of: ({ skipped }) => skipped },
      ],
      progress.waves,
      width,
    );
    return `${fields}\n${waves}`;
  });
  return wait && (shown.state !== 'done' || progress.failed > 0) ? EXIT.incomplete : undefined;
}

function planText({ plan: { canary, waves, budget, pace } }: ShownRollout): string {
  const first = canary?.tenants
    ? `${canary.tenants.length} named tenants first, then `
    : canary
      ? `${canary.count ?? `${canary.percent ?? 0} %`} first, then `
      : '';
  const failures = budget === null ? 'any number may fail' : `${budget} may fail`;
  return `${first}${waves.join(' %, ')} %; ${failures}; ${pace} pace`;
}

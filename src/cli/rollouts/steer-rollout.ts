// `tenantry rollouts pause`, `resume`, `retry` and `abort`.
import type { EngineCommand, Given } from '../terminal/cli-command.js';
import { budgetOption, fullSpeedOption, rolloutOperand, waitOption, type Waiting } from './rollout-options.js';

export const rolloutsPause: EngineCommand = {
  name: 'pause',
  about: 'Pauses a rollout: what has begun comes to its end, and no further tenant begins.',
  operands: [rolloutOperand],
  example: '',
  kind: 'acts',
  run: (given) =>
    steer(given, async (id) => {
      await given.engine.rollouts.pause(id, await given.origin());
    }),
};

interface Resuming extends Waiting {
  readonly budget?: number;
  readonly fullSpeed?: boolean;
}

export const rolloutsResume: EngineCommand<Resuming> = {
  name: 'resume',
  about: 'Goes on with a rollout that is paused or stopped.',
  operands: [rolloutOperand],
  options: [
    budgetOption('the new budget: stop when more tenants than this have failed, earlier failures included'),
    fullSpeedOption(),
    waitOption(),
  ],
  example: '--budget 10',
  kind: 'acts',
  run: (given) =>
    steer(given, async (id) => {
      const { budget, fullSpeed } = given.options;
      const wish = { budget, ...(fullSpeed === true && { pace: 'full' as const }) };
      await given.engine.rollouts.resume(id, await given.origin(), wish);
    }),
};

export const rolloutsRetry: EngineCommand<Waiting> = {
  name: 'retry',
  about: 'Tries the failed tenants of a rollout again, and goes on with it.',
  operands: [rolloutOperand],
  options: [waitOption()],
  example: '--wait',
  kind: 'acts',
  run: (given) =>
    steer(given, async (id) => {
      await given.engine.rollouts.retry(id, await given.origin());
    }),
};

export const rolloutsAbort: EngineCommand = {
  name: 'abort',
  about:
    'Ends a rollout. Tenants that have not begun are skipped. Nothing is undone: a later rollout goes on from there.',
  operands: [rolloutOperand],
  example: '--yes',
  kind: 'asks',
  run: (given) =>
    steer(given, async (id) => {
      const origin = await given.origin();
      await given.ask(`Abort the rollout ${id}? The tenants that have not begun are skipped.`);
      await given.engine.rollouts.abort(id, origin);
    }),
};

async function steer(given: Given<Waiting>, act: (id: string) => Promise<void>): ReturnType<EngineCommand['run']> {
  const { rolloutNamed } = await import('../terminal/named-rows.js');
  const { outputRollout } = await import('./shown-rollout.js');
  const { id } = await rolloutNamed(given.engine, given.operands[0]);
  await act(id);
  return outputRollout(given, id);
}

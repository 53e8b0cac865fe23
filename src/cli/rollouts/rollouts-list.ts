// `tenantry rollouts list`.
import { Option } from 'commander';
import { rolloutStates, type RolloutState } from '../../../db/registry/rollouts/rollouts-table.js';
import type { EngineCommand } from '../terminal/cli-command.js';
import { limitOption, type Listing } from '../terminal/common-options.js';
import { showList } from '../terminal/shown-list.js';
import { shortTime } from '../terminal/table.js';

interface Filters extends Listing {
  readonly state?: RolloutState;
}

export const rolloutsList: EngineCommand<Filters> = {
  name: 'list',
  about: 'Lists rollouts, the newest first, also the ended ones of the last 90 days.',
  options: [new Option('--state <state>', 'only rollouts in this state').choices(rolloutStates), limitOption()],
  example: '--state stopped',
  kind: 'reads',
  async run({ engine, options: { state, limit }, out }) {
    const { showRollout } = await import('../../rollouts/rollout-shown.js');
    const rows = await engine.rollouts.list({ direction: 'desc', limit: limit + 1, state });
    const data = rows.slice(0, limit).map(showRollout);
    showList(
      out,
      [
        { head: 'ID', of: ({ id }) => id },
        { head: 'SCHEMA', of: ({ target }) => target.slice(0, 4) },
        { head: 'STATE', of: (rollout) => rollout.state },
        { head: 'WAVE', of: ({ wave }) => wave },
        { head: 'CREATED', of: ({ createdAt }) => shortTime(createdAt) },
        { head: 'ENDED', of: ({ finishedAt }) => shortTime(finishedAt) },
        { head: 'REASON', of: ({ reason }) => reason },
      ],
      { data, more: rows.length > limit, limit },
    );
    return undefined;
  },
};

// `tenantry rollouts items`.
import { Option } from 'commander';
import { itemStates, type ItemState } from '../../../db/registry/rollouts/rollouts-table.js';
import type { EngineCommand } from '../terminal/cli-command.js';
import { limitOption, type Listing } from '../terminal/common-options.js';
import { showList } from '../terminal/shown-list.js';
import { rolloutOperand } from './rollout-options.js';

interface Filters extends Listing {
  readonly state?: ItemState;
}

export const rolloutsItems: EngineCommand<Filters> = {
  name: 'items',
  about: 'Lists the tenants of a rollout by wave, with the error of each that failed.',
  operands: [rolloutOperand],
  options: [new Option('--state <state>', 'only tenants in this state').choices(itemStates), limitOption()],
  example: '--state failed',
  kind: 'reads',
  async run({ engine, operands, options: { state, limit }, out }) {
    const { rolloutNamed } = await import('../terminal/named-rows.js');
    const { showItem } = await import('../../rollouts/rollout-shown.js');
    const { id: rolloutId } = await rolloutNamed(engine, operands[0]);
    const rows = await engine.rollouts.items({ rolloutId, state, limit: limit + 1 });
    const data = rows.slice(0, limit).map(showItem);
    showList(
      out,
      [
        { head: 'TENANT', of: ({ slug, tenantId }) => slug ?? tenantId },
        { head: 'WAVE', of: ({ wave }) => wave },
        { head: 'STATE', of: (item) => item.state },
        { head: 'ATTEMPTS', of: ({ attempts }) => attempts },
        { head: 'MS', of: ({ durationMs }) => durationMs },
        { head: 'CLUSTER', of: ({ cluster }) => cluster },
        { head: 'ERROR', of: ({ error }) => error },
      ],
      { data, more: rows.length > limit, limit },
    );
    return undefined;
  },
};

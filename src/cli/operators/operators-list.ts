// `tenantry operators list`.
import type { EngineCommand } from '../terminal/cli-command.js';
import { limitOption, type Listing } from '../terminal/common-options.js';
import { showList } from '../terminal/shown-list.js';
import { shortTime } from '../terminal/table.js';

export const operatorsList: EngineCommand<Listing> = {
  name: 'list',
  about: 'Lists operators by their e-mail address.',
  options: [limitOption()],
  example: '--json',
  kind: 'reads',
  async run({ engine, options: { limit }, out }) {
    const { listOperators } = await import('../../../db/registry/operator-queries.js');
    const rows = await listOperators(engine.registry, limit + 1);
    const data = rows.slice(0, limit);
    showList(
      out,
      [
        { head: 'E-MAIL', of: ({ email }) => email },
        { head: 'ACTIVE', of: ({ active }) => active },
        { head: 'CREATED', of: ({ createdAt }) => shortTime(createdAt) },
        { head: 'ID', of: ({ id }) => id },
      ],
      { data, more: rows.length > limit, limit, hasFilters: false },
    );
    return undefined;
  },
};

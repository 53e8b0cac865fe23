// `tenantry pools`: the connections to every cluster, of all replicas together, and the replicas that hold them.
import type { EngineCommand } from '../terminal/cli-command.js';
import { EXIT } from '../terminal/exit-codes.js';
import { tableOf } from '../terminal/table.js';

export const pools: EngineCommand = {
  name: 'pools',
  about: 'Shows the connections to every cluster, of all replicas together, and the replicas that hold them.',
  example: '--json',
  notes:
    'Leased: connections that replicas may open. Used: connections that are open or opening. The pools of one replica are at GET /pools.',
  kind: 'reads',
  async run({ engine, out }) {
    await engine.clusterRegistration.ensureDefault();
    await engine.clusterDirectory.refresh();
    const { clusters, replicas, unreadable } = await engine.fleetStatus.read();
    const shown = {
      clusters: clusters?.map(({ breaker: _ofThisProcess, standby: _other, ...cluster }) => cluster) ?? null,
      replicas: replicas?.list ?? null,
    };
    out.show(shown, (width) => {
      const servers = tableOf(
        [
          { head: 'CLUSTER', of: ({ name }) => name },
          { head: 'LEASED', of: ({ leased }) => leased.tenants },
          { head: 'USED', of: ({ used }) => used.tenants },
          { head: 'BUDGET', of: ({ budget }) => budget.tenants },
          { head: 'WANTED', of: ({ wanted }) => wanted.tenants },
          { head: 'RESERVE USED', of: ({ used }) => used.reserve },
          { head: 'RESERVE', of: ({ budget }) => budget.reserve },
          { head: 'ANSWERS', of: ({ answers }) => answers },
        ],
        shown.clusters ?? [],
        width,
      );
      const holders = tableOf(
        [
          { head: 'REPLICA', of: ({ id }) => id },
          { head: 'HOST', of: ({ host }) => host },
          { head: 'VERSION', of: ({ version }) => version },
          { head: 'ALIVE', of: ({ alive }) => alive },
          { head: 'NOT READY', of: ({ notReady }) => notReady },
        ],
        shown.replicas ?? [],
        width,
      );
      return `${servers}\n${holders}`;
    });
    const missing = unreadable.filter(({ part }) => part === 'clusters' || part === 'replicas');
    for (const { part, reason } of missing) out.note(`The ${part} could not be read: ${reason}.`);
    return missing.length > 0 ? EXIT.failed : undefined;
  },
};

// `tenantry clusters list`.
import { Option } from 'commander';
import type { EngineCommand } from '../terminal/cli-command.js';
import { limitOption, type Listing } from '../terminal/common-options.js';
import { showList } from '../terminal/shown-list.js';

export const clustersList: EngineCommand<Listing & { readonly region?: string }> = {
  name: 'list',
  about: 'Lists clusters, the newest first.',
  options: [new Option('--region <region>', 'only clusters of this region'), limitOption()],
  example: '--region eu-central',
  kind: 'reads',
  async run({ engine, options: { region, limit }, out }) {
    const { listClusters } = await import('../../../db/registry/cluster-queries.js');
    const { showClusters } = await import('../../operations/cluster-shown.js');
    await engine.clusterRegistration.ensureDefault();
    const rows = await listClusters(engine.registry, {
      sort: 'createdAt',
      direction: 'desc',
      limit: limit + 1,
      ...(region !== undefined && { region }),
    });
    const data = await showClusters(engine.registry, engine.clusterRegistration, rows.slice(0, limit));
    showList(
      out,
      [
        { head: 'NAME', of: ({ name }) => name },
        { head: 'SERVER', of: ({ host, port }) => `${host}:${port}` },
        { head: 'REGION', of: (cluster) => cluster.region },
        { head: 'DEFAULT', of: ({ isDefault }) => isDefault },
        { head: 'TLS', of: ({ tls }) => tls },
        { head: 'TENANTS', of: ({ tenants }) => tenants },
        { head: 'STANDBY', of: ({ standbyDatabases }) => standbyDatabases },
        { head: 'BUDGET', of: ({ connectionBudget }) => connectionBudget },
        { head: 'ACCEPTING', of: ({ accepting }) => accepting },
        { head: 'ID', of: ({ id }) => id },
      ],
      { data, more: rows.length > limit, limit },
    );
    return undefined;
  },
};

// `tenantry operations list`.
import { Option } from 'commander';
import { operationStates, type OperationState } from '../../../db/registry/operations/operations-table.js';
import { operationKinds } from '../../operations/runner/operation-kinds.js';
import type { EngineCommand } from '../terminal/cli-command.js';
import { limitOption, type Listing } from '../terminal/common-options.js';
import { showList } from '../terminal/shown-list.js';
import { shortTime } from '../terminal/table.js';

interface Filters extends Listing {
  readonly state?: OperationState;
  readonly kind?: string;
  readonly tenant?: string;
  readonly cluster?: string;
}

export const operationsList: EngineCommand<Filters> = {
  name: 'list',
  about: 'Lists operations, the newest first, also the ended ones of the last 30 days.',
  options: [
    new Option('--state <state>', 'only operations in this state').choices(operationStates),
    new Option('--kind <kind>', 'only operations of this kind').choices(operationKinds),
    new Option('--tenant <tenant>', 'only operations on this tenant: its slug or id'),
    new Option('--cluster <cluster>', 'only operations that need this cluster: its name or id'),
    limitOption(),
  ],
  example: '--state needs-person',
  kind: 'reads',
  async run({ engine: { registry }, options: { state, kind, tenant, cluster, limit }, out }) {
    const { listOperations } = await import('../../../db/registry/operations/operation-lists.js');
    const { isTenantId } = await import('../../tenants/tenant-ids.js');
    const { showOperation } = await import('../../operations/runner/operation-shown.js');
    const { clusterNamed, tenantNamed } = await import('../terminal/named-rows.js');
    // The id of a tenant that is removed finds its operations too.
    const id = async (name: string): Promise<string> =>
      isTenantId(name) ? name : (await tenantNamed(registry, name)).id;
    const rows = await listOperations(registry, {
      direction: 'desc',
      limit: limit + 1,
      state,
      kind,
      tenantId: tenant === undefined ? undefined : await id(tenant),
      clusterId: cluster === undefined ? undefined : (await clusterNamed(registry, cluster)).id,
    });
    const data = rows.slice(0, limit).map(showOperation);
    showList(
      out,
      [
        { head: 'ID', of: (operation) => operation.id },
        { head: 'KIND', of: (operation) => operation.kind },
        { head: 'STATE', of: (operation) => operation.state },
        { head: 'STEP', of: ({ step }) => step },
        { head: 'DONE', of: ({ progress }) => progress && `${progress.done} of ${progress.total}` },
        { head: 'ATTEMPTS', of: ({ attempts }) => attempts },
        { head: 'CREATED', of: ({ createdAt }) => shortTime(createdAt) },
        { head: 'TENANT', of: ({ tenantId }) => tenantId },
      ],
      { data, more: rows.length > limit, limit },
    );
    return undefined;
  },
};

// The steps of removing a tenant. Each compares before it changes, so it can be repeated.
import { endOperation, type OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import { deleteTenantRow, findSettledTenant, markTenantDeleting } from '../../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import { auditAct, SERVICE } from '../../audit/operator-act.js';
import { AppError } from '../../errors.js';
import type { RecordEvent } from '../../observability/security-events.js';
import { look, whyLeft } from '../evidence.js';
import { leftAsItIs, type ReportLeft } from '../reports.js';
import { LostOperation, PastReturn, type Step } from '../runner/operation-kinds.js';
import { keepsDatabase, placeOf, takeDown, type TakeDownDeps } from './take-down.js';

export interface RemovalDeps extends TakeDownDeps {
  /** Called after the row turned to `deleting` and before the database is dropped: closes the pools of this process. */
  readonly beforeDrop: (tenantId: string) => Promise<void>;
  readonly report: ReportLeft;
  /** Called when a purge is committed. */
  readonly record: RecordEvent;
}

/** @param asked whether a person waits for it, and lets it bring mark and row up to date */
export function removalSteps(deps: RemovalDeps, operation: OperationRecord, asked: boolean): Step[] {
  const { registry } = deps;
  const { subject: id, details } = operation;
  const row = async (): Promise<TenantRecord | undefined> => {
    const tenant = await findSettledTenant(registry, id);
    return tenant?.status === 'deleting' ? tenant : undefined;
  };
  // Both change nothing that is changed already, and the evidence is compared each time.
  const repeatable = async (): Promise<'not-done'> => Promise.resolve('not-done');
  return [
    {
      name: 'begin',
      irrevocable: true,
      settled: async () => ((await findSettledTenant(registry, id))?.status === 'deleted' ? 'not-done' : 'done'),
      do: async () => {
        const tenant = await findSettledTenant(registry, id);
        if (tenant?.status === 'deleted') await beginDue(deps, tenant, Number(details['grace']));
      },
      undo: async () => {
        if (await row()) throw new PastReturn();
      },
    },
    {
      name: 'pools',
      settled: repeatable,
      do: () => deps.beforeDrop(id),
    },
    {
      name: 'database',
      settled: repeatable,
      do: async () => {
        const tenant = await row();
        const left = tenant && (await takeDown(deps, tenant, asked));
        if (left === undefined) return;
        deps.report(tenant ?? { id, dbName: '', generation: 0 }, left);
        throw leftAsItIs(left);
      },
    },
    {
      name: 'row',
      ends: true,
      settled: async () => ((await row()) ? 'not-done' : 'done'),
      do: () =>
        registry.transaction().execute(async (trx) => {
          await deleteTenantRow(trx, id);
          if (!(await endOperation(trx, operation, 'done'))) throw new LostOperation();
        }),
    },
  ];
}

/** Begins a purge after the grace time, if the evidence allows it. */
async function beginDue(deps: RemovalDeps, tenant: TenantRecord, grace: number): Promise<void> {
  const { id, generation } = tenant;
  const seen = await look(await placeOf(deps, tenant), tenant, await deps.installation());
  if (seen && !keepsDatabase(tenant) && !['agrees', 'older'].includes(seen.verdict)) {
    const why = whyLeft(seen.verdict, seen.found);
    deps.report(tenant, why);
    throw leftAsItIs(why);
  }
  await deps.registry.transaction().execute(async (trx) => {
    // It may have been restored and deleted again since the operation was recorded.
    if (!(await markTenantDeleting(trx, id, ['deleted'], { generation, grace })))
      throw new AppError('tenant-state', { detail: 'The tenant was changed, or its grace time is not over.' });
    await auditAct(trx, { ...SERVICE, action: 'tenant.purged', target: { kind: 'tenant', id }, tenantId: id });
  });
  deps.record('tenant-purged', { tenantId: id }, SERVICE);
}

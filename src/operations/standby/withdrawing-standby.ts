// The operation that drops one standby database. It is retired in the transaction that records the operation, so that no tenant
// claims it any more. From then on it only goes forward.
import { findCluster } from '../../../db/registry/cluster-queries.js';
import { endOperation } from '../../../db/registry/operations/operation-rows.js';
import { deleteStandby, findStandby } from '../../../db/registry/standby-rows.js';
import { LostOperation, PastReturn, type OperationKind } from '../runner/operation-kinds.js';
import { dropStandby, type DropDeps } from './drop-standby.js';

export function withdrawingStandby(deps: DropDeps): OperationKind {
  const { registry } = deps;
  return {
    name: 'withdraw',

    async plan(operation) {
      const row = await findStandby(registry, operation.subject);
      const place = row && (await findCluster(registry, row.clusterId));
      if (!row || !place) return 'done';
      return {
        steps: [
          {
            name: 'drop',
            ends: true,
            // Each attempt compares what is there with what may be dropped.
            settled: () => Promise.resolve('not-done'),
            do: async () => {
              await dropStandby(deps, row, place);
              await registry.transaction().execute(async (trx) => {
                await deleteStandby(trx, row.id);
                if (!(await endOperation(trx, operation, 'done'))) throw new LostOperation();
              });
            },
            undo: () => Promise.reject(new PastReturn()),
          },
        ],
      };
    },

    // What is on the server stays, and is reported as an orphan.
    abandon: (trx, { subject }) => deleteStandby(trx, subject),
  };
}

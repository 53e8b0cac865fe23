// The shapes of operations in requests and answers.
import { z } from 'zod';
import { operationStates } from '../../db/registry/operations/operations-table.js';
import { operationKinds } from '../../src/operations/runner/operation-kinds.js';
import { answerId, id, timestamp, whole } from './fields.js';
import { listQuery } from './lists.js';

export const OperationAnswer = z
  .object({
    id: answerId,
    kind: z.string().meta({ description: `What it does: ${operationKinds.join(', ')}, or a kind of a newer build.` }),
    state: z.enum(operationStates).meta({
      description:
        '`waiting`: it is tried again by itself. `needs-person`: it stays as it is until an operator acts. `done`, `undone` and `abandoned` are its ends.',
    }),
    step: z.string().nullable().meta({ description: 'The step that runs, or at which it waits.' }),
    progress: z
      .object({ done: whole, total: whole })
      .nullable()
      .meta({ description: 'How much of the step is done; null for steps that are not counted.' }),
    attempts: whole.meta({ description: 'How often a replica has taken it.' }),
    error: z.string().nullable().meta({ description: 'The last error, in plain words.' }),
    tenantId: answerId.nullable(),
    clusterId: answerId.nullable().meta({ description: 'The cluster whose server the steps need.' }),
    startedBy: answerId
      .nullable()
      .meta({ description: 'The operator who asked for it; null if the service began it.' }),
    notBefore: timestamp
      .nullable()
      .meta({ description: 'When it is tried again; null unless it waits to be tried again.' }),
    createdAt: timestamp,
    updatedAt: timestamp,
    endedAt: timestamp.nullable(),
    message: z.string().meta({ description: 'What is going on, and what an operator can do, in plain words.' }),
  })
  .meta({ id: 'Operation' });

export const OperationsQuery = listQuery(
  { createdAt: true },
  {
    kind: z.enum(operationKinds).optional(),
    state: z.enum(operationStates).optional(),
    tenant: id.optional().meta({ description: 'The id of the tenant, which may be removed already.' }),
    cluster: id.optional().meta({ description: 'The id of the cluster whose server the steps need.' }),
  },
);

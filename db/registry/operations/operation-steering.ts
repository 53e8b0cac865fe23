// What a person does to an operation.
import { sql, type Kysely } from 'kysely';
import type { OperationState } from './operations-table.js';
import type { Registry } from '../registry-schema.js';
import { NOW, operationColumns, type OperationRecord } from './operation-rows.js';

/** Lets the next worker take an operation at once, also one that waits for a person. Undefined if it has ended. */
export async function retryOperation(db: Kysely<Registry>, id: string): Promise<OperationRecord | undefined> {
  return db
    .updateTable('operations')
    .set({
      state: sql<OperationState>`case when state = 'needs-person' then 'waiting' else state end`,
      not_before: NOW,
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('ended_at', 'is', null)
    .returning(operationColumns)
    .executeTakeFirst();
}

/** Ends an operation without its remaining steps. A worker that still runs loses it. Undefined if it has ended. */
export async function abandonOperation(db: Kysely<Registry>, id: string): Promise<OperationRecord | undefined> {
  return db
    .updateTable('operations')
    .set({
      state: 'abandoned',
      attempts: sql<number>`attempts + 1`,
      ended_at: sql<string>`now()`,
      updated_at: sql<string>`now()`,
      request_key: null,
      request_tag: null,
    })
    .where('id', '=', id)
    .where('ended_at', 'is', null)
    .returning(operationColumns)
    .executeTakeFirst();
}

// Records an operation within a larger statement, and gives it as a row without reading it again.
import { sql, type RawBuilder } from 'kysely';
import { newId } from '../../shared/ids.js';
import { later, LEFT_ALONE_FOR, type NewOperation, type OperationRecord } from './operation-rows.js';

/** The values that the database gave to a new operation. */
export interface Recorded {
  readonly operationId: string;
  readonly recordedAt: string;
}

/**
 * A part of a statement that records an operation for each row of `made`, which has the tenant's `id`. It returns `Recorded`.
 *
 * @param key the Idempotency-Key of the request, and the keyed hash of the request
 */
export function recording(
  { kind, clusterId, claim, details = {}, operatorId, worker }: Omit<NewOperation, 'subject' | 'tenantId'>,
  key: { readonly key: string; readonly requestHash: string } | undefined,
): RawBuilder<unknown> {
  return sql`
    insert into operations (id, kind, subject, tenant_id, cluster_id, claim, state, details, operator_id, request_key,
        request_tag, worker, not_before)
      select ${newId()}::uuid, ${kind}::text, id, id, ${clusterId ?? null}::uuid, ${claim ?? null}::uuid, 'running',
        ${JSON.stringify(details)}::jsonb, ${operatorId ?? null}::uuid, ${key?.key ?? null}::text,
        ${key?.requestHash ?? null}::text, ${worker ?? null}::text, ${later(LEFT_ALONE_FOR)}
      from made
      returning id as "operationId", created_at as "recordedAt"`;
}

/** The operation that `recording` has recorded for a tenant. */
export function recorded(
  { kind, clusterId, claim, details = {}, operatorId, worker }: Omit<NewOperation, 'subject' | 'tenantId'>,
  tenantId: string,
  { operationId: id, recordedAt: createdAt }: Recorded,
): OperationRecord {
  return {
    id,
    kind,
    subject: tenantId,
    tenantId,
    clusterId: clusterId ?? null,
    claim: claim ?? null,
    state: 'running',
    undoes: false,
    step: null,
    attempts: 1,
    error: null,
    progressDone: null,
    progressTotal: null,
    notBefore: createdAt,
    details,
    operatorId: operatorId ?? null,
    worker: worker ?? null,
    createdAt,
    updatedAt: createdAt,
    endedAt: null,
  };
}

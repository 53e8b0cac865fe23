// The table of operations as Kysely sees it.
import type { ColumnType, Generated, JSONColumnType, RawBuilder } from 'kysely';
import type { Timestamp } from '../../shared/shared-tables.js';

/**
 * Work of more than one step (src/operations/runner/runner.ts has the states and their transitions). A row holds no secret, no
 * password hash and no address.
 */
export interface OperationsTable {
  id: string;
  kind: string;
  /** The id whose lock the worker takes: the tenant's, the standby database's, the cluster's or the installation's. */
  subject: string;
  tenant_id: string | null;
  /** The server that the steps need; null if they need only the registry. */
  cluster_id: string | null;
  /** The random id in the mark of a database that the operation makes, and in the tenant's row. */
  claim: string | null;
  state: OperationState;
  /** Whether the steps are being undone. */
  undoes: Generated<boolean>;
  /** The step that runs, or at which the operation waits. */
  step: string | null;
  /** How often a worker has taken it. A worker writes only while the number is its own. */
  attempts: Generated<number>;
  /** The last error in plain words. */
  error: string | null;
  progress_done: string | number | null;
  progress_total: string | number | null;
  not_before: ColumnType<string, RawBuilder<string>, RawBuilder<string>>;
  details: JSONColumnType<OperationDetails>;
  /** The operator who asked for it; null if the service did. */
  operator_id: string | null;
  /** The Idempotency-Key of the operator's request, while the operation may still answer a repeated one. */
  request_key: string | null;
  /** A keyed hash of the request, to compare it with a repeated one. */
  request_tag: string | null;
  /** The replica that took it last. */
  worker: string | null;
  created_at: Timestamp;
  updated_at: Timestamp;
  ended_at: string | null;
}

export const operationStates = [
  'running',
  'undoing',
  'waiting',
  'needs-person',
  'done',
  'undone',
  'abandoned',
] as const;
export type OperationState = (typeof operationStates)[number];

/** What another worker needs to continue an operation. Never a secret, a hash or an address. */
export type OperationDetails = Readonly<Record<string, string | number | boolean | null>>;

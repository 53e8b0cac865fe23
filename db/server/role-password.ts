// Sets the password of a tenant's role, so that a late worker cannot undo the change of a later worker.
import { sql } from 'kysely';
import type { ClusterDb } from './server-admin.js';
import { DatabaseFault } from '../driver/database-fault.js';

/**
 * Longest time (ms) that the server waits between two statements of the transaction. Then a worker that stopped frees the role.
 */
const IDLE_DEADLINE = 4_000;

/**
 * Sets a role's password, if `confirm` still agrees after the ALTER and before its COMMIT. Open connections of the role stay
 * open.
 *
 * The ALTER locks the role until the transaction ends. So every other ALTER of the role comes completely before `confirm` or
 * completely after the COMMIT. Each worker must record a password before its ALTER, and `confirm` must compare with the record.
 * Then the password of the worker that recorded last stays.
 *
 * @param verifier a SCRAM verifier, never a password
 * @param timeout longest run of the ALTER, in ms; another worker's transaction on the role can hold it up
 * @returns false if it changed nothing: `confirm` disagreed, or another worker changed the role at the same time
 */
export async function setRolePassword(
  cluster: ClusterDb,
  { name, verifier }: { readonly name: string; readonly verifier: string },
  timeout: number,
  confirm: () => Promise<boolean>,
): Promise<boolean> {
  try {
    await cluster.transaction().execute(async (trx) => {
      await sql`
        select set_config('statement_timeout', ${String(timeout)}, true),
          set_config('idle_in_transaction_session_timeout', ${String(IDLE_DEADLINE)}, true)`.execute(trx);
      await sql`alter role ${sql.id(name)} password ${sql.lit(verifier)}`.execute(trx);
      if (!(await confirm())) throw new Superseded();
    });
    return true;
  } catch (error) {
    if (error instanceof Superseded || isConcurrent(error)) return false;
    throw error;
  }
}

/**
 * PostgreSQL's error for the second of two transactions that change a role: `tuple concurrently updated`
 * (db/driver/database-fault.ts).
 */
function isConcurrent(error: unknown): boolean {
  return error instanceof DatabaseFault && error.kind === 'busy' && error.reason === 'XX000';
}

class Superseded extends Error {}

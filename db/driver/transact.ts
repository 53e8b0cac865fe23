// A transaction that runs once more if it met a prepared statement that no longer fits, because DDL changed a table meanwhile.
import type { Kysely, Transaction } from 'kysely';
import { hasSqlState } from './database-fault.js';
import { SPOILED } from './sqlstates.js';

/**
 * Runs `work` in a transaction. It may run twice: the first transaction is then rolled back, and the second one runs on a
 * connection that was opened after the change. So `work` changes nothing outside the transaction.
 */
export async function transact<DB, T>(db: Kysely<DB>, work: (trx: Transaction<DB>) => Promise<T>): Promise<T> {
  try {
    return await db.transaction().execute(work);
  } catch (error) {
    if (![...SPOILED].some((sqlState) => hasSqlState(error, sqlState))) throw error;
    return db.transaction().execute(work);
  }
}

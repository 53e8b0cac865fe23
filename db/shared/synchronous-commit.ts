// Writes that no standby has to confirm.
import { sql } from 'kysely';

/**
 * A column that makes the transaction's COMMIT wait for the disk of its own server only.
 *
 * While a synchronous standby is lost, any other COMMIT waits on the server until the standby is back. It keeps its locks, even
 * after its client has given up. A write that happens each second would then leave more and more sessions that hang.
 */
export const WITHOUT_STANDBY = sql`set_config('synchronous_commit', 'local', true)`;

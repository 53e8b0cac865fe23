// Writes that no standby has to have.
import { sql } from 'kysely';

/**
 * A column that makes the transaction's COMMIT wait for its own server's disk only. While a synchronous standby is lost, any
 * other COMMIT waits on the server until the standby is back, with its locks, also after its client has given up: what is
 * written each second would leave one session after the other behind.
 */
export const WITHOUT_STANDBY = sql`set_config('synchronous_commit', 'local', true)`;

// Turns of work for each server. A server that does not answer then takes only its own turns, and not those of other servers.
import { Slots } from '../../jobs/bounded-tasks.js';
import { DatabaseFault } from '../../../db/driver/database-fault.js';

/**
 * Runs work for a server, at most a few at once.
 *
 * @param server null for work that needs only the registry
 * @throws DatabaseFault `busy` if too many wait, or the wait was too long; then the work did not begin
 */
export type ServerTurns = <T>(server: string | null, work: () => Promise<T>) => Promise<T>;

/** Works at once on one server, and how many may wait. */
const AT_ONCE = 5;
const WAITING = 200;

/** @param patience longest wait (ms) for a turn */
export function createServerTurns(patience: number): ServerTurns {
  const servers = new Map<string | null, { readonly slots: Slots; users: number }>();
  const busy = (): DatabaseFault => new DatabaseFault('busy', 'too many operations on one server');

  return async (server, work) => {
    const entry = servers.get(server) ?? { slots: new Slots(AT_ONCE, WAITING, patience, busy), users: 0 };
    servers.set(server, entry);
    entry.users += 1;
    try {
      return await entry.slots.run(work);
    } finally {
      entry.users -= 1;
      if (entry.users === 0) servers.delete(server);
    }
  };
}

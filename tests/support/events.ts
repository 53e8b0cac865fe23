// Events of a minimal replica: no service, only its feed and its publisher.
import type { ConnectionSettings } from '../../db/driver/client.js';
import { openEvents, type Events } from '../../src/replicas/events.js';
import { openRegistry } from '../../db/registry/open-registry.js';

const LIMITS = { max: 1, acquireTimeout: 4_000, timeout: 1_000, idleTimeoutMillis: 60_000 };

/** @param connection to the registry */
export function eventsOver(connection: ConnectionSettings): { events: Events; close: () => Promise<void> } {
  const publisher = openRegistry(connection, LIMITS, { applicationName: 'tests', preparedStatements: true });
  const events = openEvents(connection, publisher.db);
  return {
    events,
    close: async () => {
      events.close();
      await publisher.close(0);
    },
  };
}

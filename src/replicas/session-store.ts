// Sessions that replicas share in Redis, so that a replica that does not know a session need not ask the tenant's database.
//
// Only live sessions are stored, never the end of a session. An entry is trusted because of the feed, not because it exists:
// Redis may have lost a deletion, or may have been restored from an older snapshot.
import type { SessionState } from '../../db/shared/session-queries.js';
import type { Events } from './events.js';
import type { Keys, Loaded } from './fresh-cache.js';
import { LONGEST_SILENCE } from './feed.js';
import type { SharedStore } from './shared-store.js';

/** A session that was read at most `age` ms ago. `remaining` counts from now. */
export interface AgedSession extends SessionState {
  readonly age: number;
}

export interface SessionStore {
  /**
   * A live session, from Redis if it has an entry that can be trusted.
   *
   * @param tenantId the tenant of users' sessions; undefined for operators' sessions
   * @param ids of the session; the others are read with it if it must be read in the database
   * @param read reads the sessions from their database
   * @returns sessions by id: undefined for one that does not live. A session that is missing was not looked up.
   * @throws the error of `read`
   */
  find(
    tenantId: string | undefined,
    ids: Keys,
    read: () => Promise<ReadonlyMap<string, SessionState>>,
  ): Promise<Loaded<AgedSession>>;
}

/**
 * How long (ms, by the registry's clock) an entry is trusted after its session was read. A process trusts a cached row for the
 * same time.
 */
const TRUSTED_FOR = LONGEST_SILENCE;

/** How long (ms) an end is remembered: longer than an entry from before that end can be trusted. */
const REMEMBERED_FOR = 2 * TRUSTED_FOR;

/** The most ends that are remembered. Beyond that, entries from before are no longer trusted. */
const MAX_REMEMBERED = 50_000;

/** The format of an entry. Entries of another format are not read. */
const VERSION = 1;

/** What Redis holds. */
interface Entry extends SessionState {
  readonly version: typeof VERSION;
  /** The server whose clock `at` is from. */
  readonly source: string;
  /** The registry's time (ms) before the session was read. `remaining` counts from that time. */
  readonly at: number;
}

export function createSessionStore(store: SharedStore, events: Events): SessionStore {
  // A time of performance.now(). An entry that was read before it is not trusted.
  let trustedSince = performance.now();
  /** When sessions ended and tenants changed, the oldest first. */
  const changed = new Map<string, number>();
  const remember = (id: string): void => {
    const now = performance.now();
    changed.delete(id);
    changed.set(id, now);
    for (const [known, at] of changed) {
      if (now - at < REMEMBERED_FOR) break;
      changed.delete(known);
    }
    if (changed.size > MAX_REMEMBERED) forget();
  };
  const forget = (): void => {
    trustedSince = performance.now();
    changed.clear();
  };
  events.subscribe((change) => {
    if (change.kind === 'session') remember(change.sessionId);
    else if (change.kind === 'tenant') remember(change.tenantId);
    else if (change.kind === 'any') forget();
  });

  /** Undefined if the entry cannot be trusted: it is too old, or the session may have changed since it was read. */
  function trusted(entry: Entry, tenantId: string | undefined, sessionId: string): AgedSession | undefined {
    const clock = events.clock();
    if (clock?.source !== entry.source) return undefined;
    const age = clock.latest - entry.at;
    const readAt = performance.now() - age;
    if (age < 0 || age >= TRUSTED_FOR || readAt <= trustedSince || changed.has(sessionId)) return undefined;
    if (tenantId !== undefined && readAt <= (changed.get(tenantId) ?? -Infinity)) return undefined;
    const { accountId, generation, createdAt } = entry;
    const remaining = entry.remaining - age;
    // If no time remains, a refresh may still have extended the session: only the database knows.
    return remaining > 0 ? { accountId, generation, createdAt, remaining, age } : undefined;
  }

  return {
    async find(tenantId, ids, read) {
      const [wanted] = ids;
      const keyOf = (id: string): string => `session:${tenantId ?? 'operator'}:${id}`;
      if (store.available && events.clock()) {
        const text = await store.send<string | null>('GET', [keyOf(wanted)]).catch(() => null);
        const entry = text === null ? undefined : parse(text);
        const known = entry && trusted(entry, tenantId, wanted);
        if (known) return new Map([[wanted, known]]);
      }
      const clock = events.clock();
      const sessions = await read();
      for (const [id, session] of sessions) {
        if (!clock || !store.available) break;
        const entry: Entry = { ...session, version: VERSION, source: clock.source, at: clock.earliest };
        // Do not wait for this; the entry may get lost without harm.
        store.send('SET', [keyOf(id)], [JSON.stringify(entry), 'PX', TRUSTED_FOR]).catch(() => undefined);
      }
      return new Map(ids.map((id) => [id, aged(sessions.get(id))]));
    },
  };
}

function aged(session: SessionState | undefined): AgedSession | undefined {
  return session && { ...session, age: 0 };
}

/** Undefined if the text is not an entry of this format. */
function parse(text: string): Entry | undefined {
  try {
    const entry = JSON.parse(text) as Partial<Entry> | null;
    const whole =
      entry?.version === VERSION &&
      typeof entry.source === 'string' &&
      typeof entry.at === 'number' &&
      typeof entry.accountId === 'string' &&
      typeof entry.createdAt === 'string' &&
      typeof entry.remaining === 'number' &&
      (entry.generation === null || typeof entry.generation === 'number');
    return whole ? (entry as Entry) : undefined;
  } catch {
    return undefined;
  }
}

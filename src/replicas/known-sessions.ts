// Cached sessions, which every request needs. A notification invalidates a session that has ended, on every replica.
import type { SessionState } from '../../db/shared/session-queries.js';
import { believedFor, type Events } from './events.js';
import { FreshCache, type Keys, type Loaded } from './fresh-cache.js';

/** `age` is the time (ms) since the session was read in its database. */
export type LoadedSession = SessionState & { readonly age?: number };

/** A cached session. `until` is the time of performance.now() at which it expires if it is not extended. */
export type KnownSession = Omit<LoadedSession, 'remaining'> & { readonly until: number };

/**
 * Loads the first of these sessions, and the others too if that costs little more.
 *
 * @param tenantId the tenant of users' sessions; undefined for operators' sessions
 * @returns sessions by id: undefined for one that does not live. A session that is missing was not looked up.
 * @throws DatabaseFault
 */
export type LoadSessions = (tenantId: string | undefined, ids: Keys) => Promise<Loaded<LoadedSession>>;

export interface KnownSessions {
  /** The session if it is cached and fresh, without waiting. It may have expired since. */
  peek(tenantId: string | undefined, sessionId: string): KnownSession | undefined;
  /** The session. If it has expired, it was read again since. @throws DatabaseFault */
  current(tenantId: string | undefined, sessionId: string): Promise<KnownSession | undefined>;
  /** Reads the sessions of a tenant that will soon be needed again. Call it when its database is asked for something else. */
  readAhead(tenantId: string): void;
  /** The number of cached sessions. */
  readonly size: number;
}

/** Cached sessions: about 300 bytes each. */
const MAX_REMEMBERED = 50_000;

export function createKnownSessions(
  events: Pick<Events, 'live' | 'caughtUp' | 'subscribe'>,
  load: LoadSessions,
): KnownSessions {
  // Never stale: if the database does not answer, requests of its users could not be served anyway.
  const known = new FreshCache<KnownSession>({
    max: MAX_REMEMBERED,
    freshFor: () => believedFor(events),
    caughtUp: () => events.caughtUp(),
    ageOf: ({ age = 0 }) => age,
    staleFor: 0,
    // The sessions of a tenant are read again together, as standings are (src/auth/standing.ts). The registry's connections are
    // always open.
    groupOf: tenantIn,
    loadAll: async (keys) => {
      const [first, ...others] = keys;
      const tenantId = tenantIn(first);
      const askedAt = performance.now();
      const loaded = await load(tenantId, [sessionIn(first), ...others.map(sessionIn)]);
      return new Map([...loaded].map(([id, session]) => [keyOf(tenantId, id), session && knownFrom(session, askedAt)]));
    },
  });
  events.subscribe((change) => {
    if (change.kind === 'session') known.invalidate(keyOf(change.tenantId, change.sessionId));
    else if (change.kind === 'any') known.expire();
  });
  return {
    peek: (tenantId, sessionId) => known.peek(keyOf(tenantId, sessionId)),

    async current(tenantId, sessionId) {
      const key = keyOf(tenantId, sessionId);
      const remembered = await known.get(key);
      // A refresh on another replica may have extended the session: only the database knows.
      return remembered && isOver(remembered) ? known.reload(key) : remembered;
    },

    readAhead: (tenantId) => {
      known.readAhead(tenantId);
    },

    get size() {
      return known.size;
    },
  };
}

export function isOver({ until }: KnownSession): boolean {
  return until <= performance.now();
}

/** @param askedAt the time of performance.now() before the session was asked for */
function knownFrom({ remaining, ...rest }: LoadedSession, askedAt: number): KnownSession {
  return { ...rest, until: askedAt + remaining };
}

/** Both ids are UUIDs and hold no space. */
function keyOf(tenantId: string | undefined, sessionId: string): string {
  return tenantId === undefined ? sessionId : `${sessionId} ${tenantId}`;
}

function tenantIn(key: string): string | undefined {
  return key.split(' ')[1];
}

function sessionIn(key: string): string {
  return key.split(' ')[0] ?? '';
}

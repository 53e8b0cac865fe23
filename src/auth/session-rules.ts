// Sessions begin with a sign-in, are extended by refreshes, and can be ended. A refresh token works once. If a token is used
// again, two clients hold it, so its session ends. Sessions are cached; a notification invalidates them on every replica.
import { transact } from '../../db/driver/transact.js';
import { insertAudit, type AuditOrigin } from '../../db/shared/audit-rows.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { newId } from '../../db/shared/ids.js';
import {
  deleteSession,
  deleteSessionsOf,
  findRotation,
  findSession,
  insertSession,
  listSessions,
  rotateSession,
  type Refreshed,
  type Session,
  type SessionBeginning,
  type SessionLifetimes,
  type SessionsDatabase,
} from '../../db/shared/session-queries.js';
import { AppError } from '../errors.js';
import type { Events } from '../replicas/events.js';
import { createKnownSessions, isOver, type LoadSessions } from '../replicas/known-sessions.js';
import type { TenantDirectory } from '../tenants/tenant-directory.js';
import { admitted } from '../connections/tenant-pools.js';
import { idOf, type Account } from './accounts.js';
import { hashOf, newSecret, successorOf, type RefreshTokens, type SessionOwner } from './refresh-tokens.js';
import { REUSED, type EndReason } from './session-counts.js';
import { admits } from './session-generations.js';
import type { Principal } from './tokens.js';

/** The credentials that an account has proved, as they were read before the password was verified. */
export interface Proof {
  readonly passwordHash: string;
  /** From the tenant's row: the session does not count if the tenant is signed out meanwhile. Null for an operator. */
  readonly generation: number | null;
}

/** The result of a sign-in or a refresh for the client. */
export interface Grant {
  readonly principal: Principal;
  readonly refreshToken: string;
  /** Time (ms) since the sign-in, by the database's clock. */
  readonly signedInAgo: number;
}

export interface Sessions {
  /**
   * Begins a session for an account whose password was verified. Audited as its sign-in.
   *
   * @returns undefined if the account's password has changed meanwhile, or the account is no longer active
   * @throws DatabaseFault
   */
  begin(account: Account, proof: Proof, origin: Omit<AuditOrigin, 'actor'>): Promise<Grant | undefined>;
  /**
   * Exchanges a refresh token for the next one.
   *
   * @throws AppError `invalid-refresh-token` for every token that does not work, for any reason
   */
  refresh(refreshToken: string, origin: AuditOrigin): Promise<Grant>;
  /** Whether the session lives; undefined if this is not known without waiting. `tenant` is the admitted tenant of a user. */
  peek(principal: Principal, tenant: TenantRecord | null): boolean | undefined;
  /**
   * Whether the session lives.
   *
   * @param held a connection that the caller already holds: the session is read there, and not cached
   * @throws DatabaseFault; AppError if its tenant is no longer served
   */
  lives(principal: Principal, held?: SessionsDatabase): Promise<boolean>;
  /** The caller's live sessions, the most recently used first. */
  list(principal: Principal): Promise<Session[]>;
  /** Ends one of the caller's sessions, on every replica before it returns. Returns whether the session existed. */
  end(principal: Principal, sessionId: string, origin: AuditOrigin, db?: SessionsDatabase): Promise<boolean>;
  /** Ends all of the caller's sessions, on every replica before it returns. */
  endAll(principal: Principal, origin: AuditOrigin, db?: SessionsDatabase): Promise<void>;
  /** Notifies every replica of sessions that another module ended in its own transaction. */
  ended(owner: SessionOwner, sessionIds: readonly string[]): Promise<void>;
  /** Reads the sessions of a tenant that will soon be needed again. Call it when its database is asked for something else. */
  readAhead(tenantId: string): void;
  /** The number of cached sessions. */
  readonly cached: number;
}

export interface SessionsDeps {
  readonly tokens: RefreshTokens;
  readonly events: Events;
  readonly lifetimes: SessionLifetimes;
  /** The database that holds the sessions of a tenant's users, or of operators. */
  readonly database: (owner: SessionOwner) => SessionsDatabase;
  readonly directory: Pick<TenantDirectory, 'find'>;
  /** Loads sessions that are not cached. */
  readonly load: LoadSessions;
  /** Called when a refresh token was used again, after its session ended, so that it can be logged. */
  readonly onReuse: (account: Account, sessionId: string, origin: AuditOrigin) => void;
  /** Called when sessions have ended before they expired. */
  readonly onEnded: (reason: EndReason, count: number) => void;
}

/** Live sessions of one account; beyond this the least recently used session ends. */
const MAX_PER_ACCOUNT = 100;

export function createSessions(deps: SessionsDeps): Sessions {
  const { tokens, events, lifetimes, database, directory } = deps;
  const known = createKnownSessions(events, deps.load);

  async function ended(owner: SessionOwner, sessionIds: readonly string[], reason: EndReason): Promise<void> {
    deps.onEnded(reason, sessionIds.length);
    const tenantId = tenantOf(owner);
    await Promise.all(sessionIds.map((sessionId) => events.publish({ kind: 'session', sessionId, tenantId })));
  }

  /** Whether a session with this beginning counts. */
  async function counts(owner: SessionOwner, beginning: SessionBeginning): Promise<boolean> {
    return owner.kind === 'operator' || admits(await directory.find(owner.tenantId), beginning);
  }

  return {
    async begin(account, { passwordHash, generation }, origin) {
      const sessionId = newId();
      const secret = newSecret();
      const { address = '', userAgent = '' } = origin;
      const session = { id: sessionId, address, userAgent, tokenHash: hashOf(secret), generation };
      const proved = {
        table: account.kind === 'user' ? 'users' : 'operators',
        id: idOf(account),
        passwordHash,
      } as const;
      const crowdedOut = await insertSession(database(account), proved, session, lifetimes, MAX_PER_ACCOUNT, {
        ...origin,
        actor: { kind: account.kind, id: idOf(account) },
        action: 'auth.login',
        target: { kind: 'session', id: sessionId },
      });
      if (!crowdedOut) return undefined;
      await ended(account, crowdedOut, 'crowded-out');
      const refreshToken = tokens.write(account, sessionId, secret);
      return { principal: { ...account, sessionId }, refreshToken, signedInAgo: 0 };
    },

    async refresh(refreshToken, origin) {
      const token = tokens.read(refreshToken);
      if (!token) throw invalid();
      const { owner, sessionId, secret } = token;
      if (owner.kind === 'user' && !(await directory.find(owner.tenantId))?.active) throw invalid();
      const db = database(owner);
      const presented = hashOf(secret);
      const step = newSecret().toString('base64url');
      const next = hashOf(successorOf(secret, step));
      const rotated = await rotateSession(db, sessionId, { presented, next, step }, lifetimes);
      const grant = async (session: Refreshed, by: string): Promise<Grant> => {
        if (!(await counts(owner, session))) throw invalid();
        const principal = principalOf(owner, session.accountId, sessionId);
        const refreshToken = tokens.write(owner, sessionId, successorOf(secret, by));
        return { principal, refreshToken, signedInAgo: session.signedInAgo };
      };
      if (rotated) return grant(rotated, step);
      const rotation = await findRotation(db, sessionId, presented);
      if (!rotation) throw invalid();
      // The successor was never presented: its answer was lost, or requests ran in parallel.
      if (rotation.step !== null) return grant(rotation, rotation.step);
      // Every client can make up a token that names a session. Only a token that was issued here proves that two clients hold it.
      const { accountId } = rotation;
      const givenOut = token.genuine || rotation.replaced;
      const found = (trx: SessionsDatabase): Promise<void> =>
        insertAudit(trx, {
          ...origin,
          action: 'auth.refresh-reused',
          target: { kind: owner.kind, id: accountId },
          details: { session: sessionId },
        });
      if (!givenOut || !(await remove(db, sessionId, accountId, found))) throw invalid();
      deps.onReuse(principalOf(owner, accountId, sessionId), sessionId, origin);
      await ended(owner, [sessionId], 'reuse');
      throw invalid(REUSED);
    },

    peek(principal, tenant) {
      const session = known.peek(tenantOf(principal), principal.sessionId);
      if (!session) return undefined;
      if (session.accountId !== idOf(principal)) return false;
      // A refresh on another replica may have extended the session: only the database knows.
      if (isOver(session)) return undefined;
      if (principal.kind === 'operator') return true;
      return tenant?.active ? admits(tenant, session) : undefined;
    },

    async lives(principal, held) {
      const session = held
        ? await findSession(held, principal.sessionId)
        : await known.current(tenantOf(principal), principal.sessionId);
      if (session?.accountId !== idOf(principal)) return false;
      // If the tenant was suspended since the request arrived, its sessions have not ended. They work again when the tenant is
      // resumed.
      return principal.kind === 'operator' || admits(admitted(await directory.find(principal.tenantId)), session);
    },

    list: (principal) => listSessions(database(principal), idOf(principal)),

    async end(principal, sessionId, origin, db = database(principal)) {
      const found = (trx: SessionsDatabase): Promise<void> =>
        insertAudit(trx, {
          ...origin,
          action: sessionId === principal.sessionId ? 'auth.logout' : 'session.revoked',
          target: { kind: 'session', id: sessionId },
        });
      if (!(await remove(db, sessionId, idOf(principal), found))) return false;
      await ended(principal, [sessionId], sessionId === principal.sessionId ? 'logout' : 'revoked');
      return true;
    },

    async endAll(principal, origin, db = database(principal)) {
      const gone = await transact(db, async (trx) => {
        const target = { kind: principal.kind, id: idOf(principal) };
        await insertAudit(trx, { ...origin, action: 'auth.logout-all', target });
        return deleteSessionsOf(trx, idOf(principal));
      });
      await ended(principal, gone, 'logout-all');
    },

    ended: (owner, sessionIds) => ended(owner, sessionIds, 'account-changed'),

    readAhead: (tenantId) => {
      known.readAhead(tenantId);
    },

    get cached() {
      return known.size;
    },
  };
}

/** Removes a session of the account, and audits the removal if the session existed. */
function remove(
  db: SessionsDatabase,
  sessionId: string,
  accountId: string,
  audited: (trx: SessionsDatabase) => Promise<void>,
): Promise<boolean> {
  return transact(db, async (trx) => {
    const existed = await deleteSession(trx, sessionId, accountId);
    if (existed) await audited(trx);
    return existed;
  });
}

function tenantOf(owner: SessionOwner): string | undefined {
  return owner.kind === 'user' ? owner.tenantId : undefined;
}

function principalOf(owner: SessionOwner, accountId: string, sessionId: string): Principal {
  return owner.kind === 'user'
    ? { kind: 'user', tenantId: owner.tenantId, userId: accountId, sessionId }
    : { kind: 'operator', operatorId: accountId, sessionId };
}

/** @param cause REUSED, for those who count refreshes; the client does not learn it */
function invalid(cause?: typeof REUSED): AppError {
  return new AppError('invalid-refresh-token', { cause });
}

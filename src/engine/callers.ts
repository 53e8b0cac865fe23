// What concerns callers: sessions, standings, sign-in, limits of tenants, and the audit trail.
import { findSessions, sessionsIn, type SessionsDatabase, type SessionState } from '../../db/shared/session-queries.js';
import { measureStorage } from '../../db/tenant/usage-queries.js';
import { createAuditTrail, type AuditTrail } from '../audit/trail.js';
import { LocalAttempts } from '../auth/attempts.js';
import { PasswordBudgets } from '../auth/password-budgets.js';
import { createPasswords, type Passwords } from '../auth/passwords.js';
import { createRefreshTokens, type SessionOwner } from '../auth/refresh-tokens.js';
import { countRefresh, countSignIn } from '../auth/session-counts.js';
import { createSessions, type Sessions } from '../auth/session-rules.js';
import { SharedAttempts } from '../auth/shared-attempts.js';
import { createSignIn, type SignIn } from '../auth/sign-in.js';
import { createStandings, type Standings } from '../auth/standing.js';
import { createThrottle } from '../auth/throttle.js';
import type { Config } from '../config/index.js';
import { createCursors, type Cursors } from '../http/cursors.js';
import type { Instruments } from '../observability/instruments.js';
import type { SecurityEvents } from '../observability/security-events.js';
import { createSessionStore } from '../replicas/session-store.js';
import { RATE_REFILL, RequestRates } from '../tenants/request-rates.js';
import { createStorageGauge, type StorageGauge } from '../tenants/storage-gauge.js';
import type { Closing } from './closing.js';
import type { DataPlane } from './data-plane.js';
import type { Replica } from './replica.js';
import { recordingTrail } from './security.js';

export interface Callers {
  readonly sessions: Sessions;
  readonly standings: Standings;
  readonly requestRates: RequestRates;
  readonly storageGauge: StorageGauge;
  readonly audit: AuditTrail;
  /** All hashing in the process shares one bound. */
  readonly passwords: Passwords;
  /** Every request that hashes a password chosen by a signed-in caller must first take from this budget. */
  readonly passwordBudgets: PasswordBudgets;
  readonly signIn: SignIn;
  /** Signs the cursors of lists. */
  readonly cursors: Cursors;
}

export function createCallers(
  replica: Replica,
  { tenantDirectory, tenantPools }: DataPlane,
  instruments: Instruments,
  config: Config,
  { record }: Pick<SecurityEvents, 'record'>,
  closing: Closing,
): Callers {
  const { registry, events, counts, sharedStore } = replica;
  const databaseOf = (owner: SessionOwner): SessionsDatabase =>
    owner.kind === 'user' ? sessionsIn(tenantPools.database(owner.tenantId)) : sessionsIn(registry);
  const store = sharedStore && createSessionStore(sharedStore, events);
  // Sessions and standings of a tenant are read at the same time: one connection that is opened for them then carries both.
  const standings: Standings = createStandings(
    registry,
    events,
    (tenantId) => tenantPools.database(tenantId),
    (tenantId) => {
      rules.readAhead(tenantId);
    },
  );
  const rules: Sessions = createSessions({
    tokens: createRefreshTokens([...config.auth.refreshTokenKeys, ...config.encryptionKeys].map(({ key }) => key)),
    events,
    lifetimes: config.auth.sessions,
    database: databaseOf,
    directory: tenantDirectory,
    load: async (tenantId, ids) => {
      const read = (): Promise<ReadonlyMap<string, SessionState>> => {
        if (tenantId === undefined) return findSessions(sessionsIn(registry), ids);
        standings.readAhead(tenantId);
        return findSessions(sessionsIn(tenantPools.database(tenantId)), ids);
      };
      if (store) return store.find(tenantId, ids, read);
      const found = await read();
      return new Map(ids.map((id) => [id, found.get(id)]));
    },
    onReuse: (account, sessionId, origin) => {
      const [tenantId, targetId] =
        account.kind === 'user' ? [account.tenantId, account.userId] : [undefined, account.operatorId];
      const realm = account.kind === 'user' ? 'tenant' : 'operator';
      record('refresh-token-reused', { realm, tenantId, targetId, sessionId }, origin);
    },
    onEnded: (reason, count) => {
      instruments.sessionsEnded.inc({ reason }, count);
    },
  });
  const sessions: Sessions = {
    ...rules,
    refresh: (token, origin) => countRefresh(instruments, rules.refresh(token, origin)),
    get cached() {
      return rules.cached;
    },
  };
  const trail = createAuditTrail({
    registry,
    tenantDb: (tenantId) => tenantPools.database(tenantId),
    findTenant: (slugOrId) => tenantDirectory.findBySlugOrId(slugOrId),
    onError: (err, context) => {
      record('audit-lost', { err, ...context });
    },
  });
  const audit = recordingTrail(trail, record);
  closing.add('audit', () => audit.close());
  const passwords = createPasswords(config.auth.hashConcurrency, undefined, {
    done: (act, seconds) => {
      instruments.passwordHashDuration.observe({ act }, seconds);
    },
    refused: () => {
      instruments.passwordHashesRefused.inc();
    },
  });
  const { forget } = config.throttle;
  const attempts = sharedStore ? new SharedAttempts(forget, sharedStore, counts) : new LocalAttempts(forget);
  const throttle = createThrottle(config.throttle, attempts);
  const signIn = createSignIn({
    registry,
    directory: tenantDirectory,
    pools: tenantPools,
    passwords,
    throttle,
    sessions,
    audit,
    record,
  });
  return {
    sessions,
    standings,
    requestRates: new RequestRates(counts.limiter('tenant', RATE_REFILL)),
    storageGauge: createStorageGauge((tenantId) => measureStorage(tenantPools.database(tenantId))),
    audit,
    passwords,
    passwordBudgets: new PasswordBudgets(config.auth.passwordBudgets, counts),
    signIn: {
      ...signIn,
      user: (...attempt) => countSignIn(instruments, 'tenant', signIn.user(...attempt)),
      operator: (...attempt) => countSignIn(instruments, 'operator', signIn.operator(...attempt)),
    },
    cursors: createCursors(config.encryptionKeys.map(({ key }) => key)),
  };
}

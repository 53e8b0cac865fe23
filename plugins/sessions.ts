// Sessions: what keeps a token valid between a sign-in and its end. Runs behind the tenant's admission, before roles are
// looked at.
import fp from 'fastify-plugin';
import { findSession, sessionsIn, type SessionsDatabase } from '../db/sessions.js';
import { watchedDatabase } from '../db/watched.js';
import type { Registry } from '../db/central/schema.js';
import type { AdmissionStep } from '../src/admission.js';
import { createRefreshTokens, type SessionOwner } from '../src/auth/refresh-tokens.js';
import { createSessions, type Sessions } from '../src/auth/sessions.js';
import type { Config } from '../src/config.js';
import { AppError } from '../src/errors.js';
import { createSessionStore } from '../src/replicas/session-store.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly sessions: Sessions;
    /** Refuses a session that has ended. */
    readonly admitSession: AdmissionStep;
  }
  interface FastifyRequest {
    /** For writes to the caller's own sessions. Throws on a request that has no caller. */
    readonly sessionsDb: SessionsDatabase;
  }
}

export const sessions = fp<{ config: Config }>(
  async (app, { config }) => {
    const { registry, registryPool, tenantDirectory: directory, tenantPools, events, sharedStore, log } = app;
    const database = (owner: SessionOwner): SessionsDatabase =>
      sessionsIn(owner.kind === 'user' ? tenantPools.database(owner.tenantId) : registry);
    const store = sharedStore && createSessionStore(sharedStore, events);
    const sessions = createSessions({
      tokens: createRefreshTokens([...config.auth.refreshTokenKeys, ...config.encryptionKeys].map(({ key }) => key)),
      events,
      lifetimes: config.auth.sessions,
      database,
      directory,
      ...(store && {
        load: (owner, sessionId) =>
          store.find(owner.kind === 'user' ? owner.tenantId : undefined, sessionId, () =>
            findSession(database(owner), sessionId),
          ),
      }),
      onReuse: ({ kind }, sessionId) => {
        log.warn({ kind, sessionId }, 'a refresh token was used a second time: its session was ended');
      },
    });
    app.decorate('sessions', sessions);
    app.decorateRequest('sessionsDb', {
      getter() {
        if (!this.principal) throw new Error('this request has no caller');
        if (this.principal.kind === 'user') return sessionsIn(this.tenantDb);
        return sessionsIn(watchedDatabase<Registry>(() => registryPool, app.watchOf(this)));
      },
    });

    app.decorate('admitSession', ({ principal }, _reply, held) => {
      if (!principal) return undefined;
      const known = sessions.peek(principal);
      if (known === undefined) return sessions.lives(principal, held && sessionsIn(held())).then(refuseUnlessLive);
      refuseUnlessLive(known);
      return undefined;
    });
  },
  { name: 'sessions', fastify: '5.x', dependencies: ['authentication', 'redis', 'tenant-pool'] },
);

function refuseUnlessLive(lives: boolean): void {
  if (!lives)
    throw new AppError('unauthenticated', { detail: 'The session of this access token has ended. Sign in again.' });
}

// Sessions: checks that the token's session has not ended. Runs after the tenant's admission, before permissions are checked.
import fp from 'fastify-plugin';
import type { Kysely } from 'kysely';
import { sessionsIn, type SessionsDatabase } from '../../db/shared/session-queries.js';
import { watchedDatabase } from '../../db/driver/watched.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { AppError } from '../../src/errors.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** For writes to the caller's own sessions. Throws on a request without a caller. */
    readonly sessionsDb: SessionsDatabase;
  }
}

export const sessions = fp(
  async (app) => {
    const { registryPool, sessions, standings, instruments } = app.engine;
    const refuseUnlessLive = (lives: boolean): void => {
      if (lives) return;
      instruments.accessTokensRefused.inc({ reason: 'session-ended' });
      throw new AppError('unauthenticated', {
        detail: 'The session of this access token has ended. Sign in again.',
        event: { name: 'ended-session-used' },
      });
    };
    app.decorateRequest('sessionsDb', {
      getter() {
        if (!this.principal) throw new Error('this request has no caller');
        if (this.principal.kind === 'user') return sessionsIn(this.tenantDb);
        return sessionsIn(watchedDatabase<Registry>(() => registryPool, app.watchOf(this)));
      },
    });

    app.steps.session = ({ principal, tenant }, _reply, held) => {
      if (!principal) return undefined;
      const known = sessions.peek(principal, tenant);
      // The standing is needed next. One connection carries both, and both are on the way at the same time.
      if (known === undefined && !held && principal.kind === 'user')
        standings.load(principal.tenantId, principal.userId);
      if (known === undefined)
        return sessions.lives(principal, held && sessionsIn(held() as Kysely<Registry>)).then(refuseUnlessLive);
      refuseUnlessLive(known);
      return undefined;
    };
  },
  { name: 'sessions', fastify: '5.x', dependencies: ['engine', 'authentication', 'tenant-pool'] },
);

// Sessions: what keeps a token valid between a sign-in and its end. Runs behind the tenant's admission, before roles are
// looked at.
import fp from 'fastify-plugin';
import { sessionsIn } from '../db/sessions.js';
import { createRefreshTokens } from '../src/auth/refresh-tokens.js';
import { createSessions, type Sessions } from '../src/auth/sessions.js';
import type { Config } from '../src/config.js';
import { AppError } from '../src/errors.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly sessions: Sessions;
  }
}

export const sessions = fp<{ config: Config }>(
  async (app, { config }) => {
    const { registry, tenantDirectory: directory, tenantPools, events, log } = app;
    const sessions = createSessions({
      tokens: createRefreshTokens([...config.auth.refreshTokenKeys, ...config.encryptionKeys].map(({ key }) => key)),
      events,
      lifetimes: config.auth.sessions,
      database: (owner) => sessionsIn(owner.kind === 'user' ? tenantPools.database(owner.tenantId) : registry),
      directory,
      onReuse: ({ kind }, sessionId) => {
        log.warn({ kind, sessionId }, 'a refresh token was used again: its session is ended');
      },
    });
    app.decorate('sessions', sessions);

    app.addHook('preParsing', (request, _reply, _payload, done) => {
      const { principal } = request;
      const known = principal ? sessions.peek(principal) : true;
      if (known === true || !principal) done();
      else if (known === false) done(over());
      else
        sessions.lives(principal).then((lives) => {
          done(lives ? undefined : over());
        }, done);
    });
  },
  { name: 'sessions', fastify: '5.x', dependencies: ['authentication', 'tenant-pool'] },
);

function over(): AppError {
  return new AppError('unauthenticated', { detail: 'The session of this token has ended.' });
}

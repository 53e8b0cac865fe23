// Sign-in and passwords, with one bound on hashing for the whole process.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { createPasswords, type Passwords } from '../src/auth/passwords.js';
import { createSignIn, type SignIn } from '../src/auth/sign-in.js';
import type { Config } from '../src/config.js';
import { AppError } from '../src/errors.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly passwords: Passwords;
    readonly signIn: SignIn;
    /**
     * Makes sure that whoever makes the request knows its password.
     *
     * @throws AppError `wrong-password`, and `rate-limited` after too many attempts
     */
    readonly confirmPassword: (request: FastifyRequest, password: string) => Promise<void>;
  }
}

const MINUTE = 60_000;

export const signIn = fp<{ config: Config }>(
  async (app, { config }) => {
    const passwords = await createPasswords(config.auth.hashConcurrency);
    const { registry, tenantDirectory: directory, tenantPools: pools, sessions, audit } = app;
    const signIn = createSignIn({ registry, directory, pools, passwords, sessions, audit });
    app.decorate('passwords', passwords);
    app.decorate('signIn', signIn);

    // Whoever holds a stolen token must not find the password faster than at sign-in.
    const countConfirmation = app.createRateLimit({
      max: config.http.signInLimit,
      timeWindow: MINUTE,
      keyGenerator: ({ principal }) =>
        principal?.kind === 'user' ? `${principal.tenantId} ${principal.userId}` : (principal?.operatorId ?? ''),
    });
    app.decorate('confirmPassword', async (request: FastifyRequest, password: string) => {
      const attempts = await countConfirmation(request);
      if (!attempts.isAllowed && attempts.isExceeded)
        throw new AppError('rate-limited', { retryAfter: attempts.ttlInSeconds });
      const { principal } = request;
      if (principal && (await signIn.confirms(principal, password))) return;
      const entry = { ...request.auditOrigin, action: 'auth.confirmation-failed' } as const;
      if (principal?.kind === 'user') audit.laterInTenant(principal.tenantId, entry);
      else audit.laterInRegistry(entry);
      throw new AppError('wrong-password');
    });
  },
  { name: 'sign-in', fastify: '5.x', dependencies: ['registry', 'tenant-pool', 'sessions', 'audit'] },
);

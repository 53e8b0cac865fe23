// Sign-in and passwords, with one bound on hashing for the process, and one count of failures and one budget of password changes
// for all replicas.
import fp from 'fastify-plugin';
import { LocalAttempts } from '../src/auth/attempts.js';
import { PasswordBudgets } from '../src/auth/password-budgets.js';
import { createPasswords, type Passwords } from '../src/auth/passwords.js';
import { SharedAttempts } from '../src/auth/shared-attempts.js';
import { createSignIn, type SignIn } from '../src/auth/sign-in.js';
import { createThrottle } from '../src/auth/throttle.js';
import type { Config } from '../src/config/index.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly passwords: Passwords;
    /** To be taken from by every request that hashes a password of a signed-in caller's choice, before it does. */
    readonly passwordBudgets: PasswordBudgets;
    readonly signIn: SignIn;
  }
}

export const signIn = fp<{ config: Config }>(
  async (app, { config }) => {
    const passwords = await createPasswords(config.auth.hashConcurrency);
    const { counts, sharedStore } = app;
    const { forget } = config.throttle;
    const attempts = sharedStore ? new SharedAttempts(forget, sharedStore, counts) : new LocalAttempts(forget);
    const throttle = createThrottle(config.throttle, attempts);
    const { registry, tenantDirectory: directory, tenantPools: pools, sessions, audit } = app;
    app.decorate('passwords', passwords);
    app.decorate('passwordBudgets', new PasswordBudgets(config.auth.passwordBudgets, counts));
    app.decorate('signIn', createSignIn({ registry, directory, pools, passwords, throttle, sessions, audit }));
  },
  {
    name: 'sign-in',
    fastify: '5.x',
    dependencies: ['counts', 'registry', 'redis', 'tenant-pool', 'sessions', 'audit'],
  },
);

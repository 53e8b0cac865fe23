// Sign-in and passwords, with one bound on hashing, one count of failures and one budget of password changes for the whole process.
import fp from 'fastify-plugin';
import { PasswordBudgets } from '../src/auth/password-budgets.js';
import { createPasswords, type Passwords } from '../src/auth/passwords.js';
import { createSignIn, type SignIn } from '../src/auth/sign-in.js';
import { createLocalAttempts, createThrottle } from '../src/auth/throttle.js';
import type { Config } from '../src/config.js';

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
    const throttle = createThrottle(config.throttle, createLocalAttempts(config.throttle.forget));
    const { registry, tenantDirectory: directory, tenantPools: pools, sessions, audit } = app;
    app.decorate('passwords', passwords);
    app.decorate('passwordBudgets', new PasswordBudgets(config.auth.passwordBudgets, app.counts));
    app.decorate('signIn', createSignIn({ registry, directory, pools, passwords, throttle, sessions, audit }));
  },
  { name: 'sign-in', fastify: '5.x', dependencies: ['registry', 'tenant-pool', 'sessions', 'audit'] },
);

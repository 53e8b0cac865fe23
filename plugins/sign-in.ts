// Sign-in and passwords, with one bound on hashing and one count of failures for the whole process.
import fp from 'fastify-plugin';
import { createPasswords, type Passwords } from '../src/auth/passwords.js';
import { createSignIn, type SignIn } from '../src/auth/sign-in.js';
import { createLocalAttempts, createThrottle } from '../src/auth/throttle.js';
import type { Config } from '../src/config.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly passwords: Passwords;
    readonly signIn: SignIn;
  }
}

export const signIn = fp<{ config: Config }>(
  async (app, { config }) => {
    const passwords = await createPasswords(config.auth.hashConcurrency);
    const throttle = createThrottle(config.throttle, createLocalAttempts(config.throttle.forget));
    const { registry, tenantDirectory: directory, tenantPools: pools, sessions, audit } = app;
    app.decorate('passwords', passwords);
    app.decorate('signIn', createSignIn({ registry, directory, pools, passwords, throttle, sessions, audit }));
  },
  { name: 'sign-in', fastify: '5.x', dependencies: ['registry', 'tenant-pool', 'sessions', 'audit'] },
);

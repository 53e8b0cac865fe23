// Sign-in and passwords, with one bound on hashing for the whole process.
import fp from 'fastify-plugin';
import { createPasswords, type Passwords } from '../src/auth/passwords.js';
import { createSignIn, type SignIn } from '../src/auth/sign-in.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly passwords: Passwords;
    readonly signIn: SignIn;
  }
}

export const signIn = fp<{ hashConcurrency: number }>(
  async (app, { hashConcurrency }) => {
    const passwords = await createPasswords(hashConcurrency);
    app.decorate('passwords', passwords);
    app.decorate(
      'signIn',
      createSignIn({
        registry: app.registry,
        directory: app.tenantDirectory,
        pools: app.tenantPools,
        passwords,
        audit: app.audit,
      }),
    );
  },
  { name: 'sign-in', fastify: '5.x', dependencies: ['registry', 'tenant-pool', 'audit'] },
);

// Signing in, and the caller's own account.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { findOperator } from '../../db/registry/operator-queries.js';
import { findUser } from '../../db/tenant/user-queries.js';
import type { Config } from '../../src/config/index.js';
import { AppError } from '../../src/errors.js';
import { answerId, email, givenPassword, text, timestamp } from '../shapes/fields.js';
import { Tokens, tokensOf } from '../shapes/token-shapes.js';
import { UserAnswer } from '../shapes/user-shapes.js';

const SignInBody = z
  .strictObject({
    tenant: text(63).meta({ description: "The tenant's slug or id." }),
    email,
    password: givenPassword,
  })
  .meta({
    id: 'SignIn',
    examples: [{ tenant: 'wayne', email: 'bruce@wayne.example', password: 'under the mansion' }],
  });

const OperatorSignInBody = z.strictObject({ email, password: givenPassword }).meta({
  id: 'SignInOperator',
  examples: [{ email: 'operator@tenantry.local', password: 'the one that npm start printed' }],
});

const OperatorAnswer = z
  .object({
    id: answerId,
    email: z.string(),
    active: z.boolean(),
    createdAt: timestamp,
    updatedAt: timestamp,
  })
  .meta({ id: 'Operator' });

/** Either `user` with its `tenantId` and `permissions`, or `operator`. */
const Me = z
  .object({
    tenantId: answerId.optional(),
    user: UserAnswer.optional(),
    permissions: z.array(z.string()).optional().meta({ description: "All permissions that the user's roles grant." }),
    operator: OperatorAnswer.optional(),
  })
  .meta({ id: 'Account' });

const SignedIn = Tokens.extend({ user: UserAnswer }).meta({ id: 'SignedInUser' });

const OperatorSignedIn = Tokens.extend({ operator: OperatorAnswer.pick({ id: true, email: true }) }).meta({
  id: 'SignedInOperator',
});

export async function authRoutes(fastify: FastifyInstance, { config }: { config: Config }): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const { accessTokenTtl } = config.auth;
  app.describeTag('auth', "Signing in, and the caller's own sessions and password.");

  // One limiter, and so one count, for both kinds of sign-in: declared in the config of each route, each would have its own. It
  // replaces the general limit.
  const limitSignIn = app.limitByAddress('sign-in', config.http.signInLimit);
  const signIn = { access: { scope: 'public' }, rateLimit: false, errors: ['invalid-credentials'] } as const;

  app.post(
    '/login',
    {
      config: { ...signIn, errors: [...signIn.errors, 'tenant-upgrading'] },
      onRequest: limitSignIn,
      schema: {
        tags: ['auth'],
        operationId: 'signIn',
        summary: 'Sign in as a user of a tenant',
        body: SignInBody,
        response: { 200: SignedIn },
      },
    },
    async (request) => {
      const { tenant, email, password } = request.body;
      const { user, ...grant } = await app.engine.signIn.user(
        tenant,
        email,
        password,
        request.auditOrigin,
        request.requester,
      );
      return { ...tokensOf(app, accessTokenTtl, grant), user: { ...user, roles: [...user.roles] } };
    },
  );

  app.post(
    '/operator/login',
    {
      config: signIn,
      onRequest: limitSignIn,
      schema: {
        tags: ['auth'],
        operationId: 'signInOperator',
        summary: 'Sign in as an operator',
        body: OperatorSignInBody,
        response: { 200: OperatorSignedIn },
      },
    },
    async (request) => {
      const { email, password } = request.body;
      const { auditOrigin } = request;
      const { operator, ...grant } = await app.engine.signIn.operator(email, password, auditOrigin, request.requester);
      const { sessionId } = grant.principal;
      app.engine.security.record('operator-signed-in', { operatorId: operator.id, sessionId }, auditOrigin);
      return { ...tokensOf(app, accessTokenTtl, grant), operator };
    },
  );

  app.get(
    '/me',
    {
      config: { access: { scope: 'platform', permission: 'self' }, errors: ['not-found'] },
      schema: {
        tags: ['auth'],
        operationId: 'getMe',
        summary: 'Read the account that the access token belongs to',
        response: { 200: Me },
      },
    },
    async (request) => {
      if (request.principal?.kind === 'operator') {
        const operator = await findOperator(app.engine.registry, request.principal.operatorId);
        if (!operator) throw new AppError('not-found');
        return { operator };
      }
      const user = await findUser(request.tenantDb, request.userId);
      if (!user) throw new AppError('not-found');
      return {
        tenantId: request.tenantId,
        user: { ...user, roles: [...user.roles] },
        permissions: [...request.permissions],
      };
    },
  );
}

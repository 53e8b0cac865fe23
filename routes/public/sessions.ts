// Sessions of users and operators, and the refresh that extends a session.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { insertAudit } from '../../db/shared/audit-rows.js';
import { findOperator } from '../../db/registry/operator-queries.js';
import { findUser } from '../../db/tenant/user-queries.js';
import { namesOf, refuseWeakPassword } from '../../src/auth/common-passwords.js';
import { REFRESH_TOKEN_LENGTH } from '../../src/auth/refresh-tokens.js';
import type { Config } from '../../src/config/index.js';
import { AppError } from '../../src/errors.js';
import { principalOf, tenantNames } from '../shapes/request-caller.js';
import { answerId, givenPassword, idParams, newPassword, timestamp } from '../shapes/fields.js';
import { AccessToken, accessTokenOf, Tokens, tokensOf } from '../shapes/token-shapes.js';

const RefreshBody = z.strictObject({ refreshToken: z.string().min(1).max(REFRESH_TOKEN_LENGTH) }).meta({
  id: 'RefreshTokens',
  examples: [{ refreshToken: 'the refreshToken of the last answer' }],
});

const SessionAnswer = z
  .object({
    id: answerId,
    address: z.string().meta({ description: 'The address that the sign-in came from.' }),
    userAgent: z.string(),
    createdAt: timestamp,
    refreshedAt: timestamp,
    expiresAt: timestamp.meta({ description: 'The session ends at this time unless it is refreshed.' }),
    current: z.boolean().meta({ description: 'Whether the access token of this request belongs to this session.' }),
  })
  .meta({ id: 'Session' });

const SessionPage = z.object({ data: z.array(SessionAnswer), nextCursor: z.null() }).meta({ id: 'SessionPage' });

const ConfirmBody = z
  .strictObject({ password: givenPassword })
  .meta({ id: 'ConfirmPassword', examples: [{ password: 'under the mansion' }] });

const PasswordBody = z.strictObject({ currentPassword: givenPassword, newPassword }).meta({
  id: 'ChangePassword',
  examples: [{ currentPassword: 'under the mansion', newPassword: 'behind the waterfall' }],
});

export async function sessionRoutes(fastify: FastifyInstance, { config }: { config: Config }): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const { accessTokenTtl } = config.auth;
  const own = { access: { scope: 'platform', permission: 'self' } } as const;
  const schema = { tags: ['auth'] };

  app.post(
    '/refresh',
    {
      config: { access: { scope: 'public' }, errors: ['invalid-refresh-token', 'tenant-upgrading'] },
      schema: {
        ...schema,
        operationId: 'refreshTokens',
        summary: 'Exchange a refresh token for new tokens',
        body: RefreshBody,
        response: { 200: Tokens },
      },
    },
    async (request) => {
      const grant = await app.engine.sessions.refresh(request.body.refreshToken, request.auditOrigin);
      return tokensOf(app, accessTokenTtl, grant);
    },
  );

  app.post(
    '/logout',
    {
      config: own,
      schema: {
        ...schema,
        operationId: 'signOut',
        summary: "End the caller's present session",
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      await app.engine.sessions.end(principal, principal.sessionId, request.auditOrigin, request.sessionsDb);
      return reply.code(204).send(null);
    },
  );

  app.post(
    '/logout-all',
    {
      config: own,
      schema: {
        ...schema,
        operationId: 'signOutEverywhere',
        summary: "End all of the caller's sessions",
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await app.engine.sessions.endAll(principalOf(request), request.auditOrigin, request.sessionsDb);
      return reply.code(204).send(null);
    },
  );

  app.get(
    '/sessions',
    {
      config: own,
      schema: {
        ...schema,
        operationId: 'listSessions',
        summary: "List the caller's sessions, the most recently used first",
        response: { 200: SessionPage },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const sessions = await app.engine.sessions.list(principal);
      const data = sessions.map((session) => ({ ...session, current: session.id === principal.sessionId }));
      return { data, nextCursor: null };
    },
  );

  app.delete(
    '/sessions/:id',
    {
      config: own,
      schema: {
        ...schema,
        operationId: 'endSession',
        summary: "End one of the caller's sessions",
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const { params, auditOrigin, sessionsDb } = request;
      if (!(await app.engine.sessions.end(principalOf(request), params.id, auditOrigin, sessionsDb)))
        throw new AppError('not-found');
      return reply.code(204).send(null);
    },
  );

  app.post(
    '/confirm',
    {
      config: { ...own, errors: ['wrong-password'] },
      schema: {
        ...schema,
        operationId: 'confirmPassword',
        summary: "Confirm the caller's password, for an act that needs a recent sign-in",
        body: ConfirmBody,
        response: { 200: AccessToken },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const { auditOrigin, body } = request;
      await app.engine.passwordBudgets.take(principal);
      await app.engine.signIn.confirm(principal, body.password, auditOrigin, request.requester);
      const target = { kind: 'session', id: principal.sessionId } as const;
      await insertAudit(request.sessionsDb, { ...auditOrigin, action: 'auth.confirmed', target });
      return accessTokenOf(app, accessTokenTtl, principal, 0);
    },
  );

  app.post(
    '/password',
    {
      config: { ...own, errors: ['wrong-password'] },
      schema: {
        ...schema,
        operationId: 'changePassword',
        summary: "Change the caller's password, and end the caller's other sessions",
        body: PasswordBody,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const { auditOrigin, body } = request;
      const account =
        principal.kind === 'user'
          ? await findUser(request.tenantDb, principal.userId)
          : await findOperator(app.engine.registry, principal.operatorId);
      refuseWeakPassword('/newPassword', body.newPassword, [...namesOf({ ...account }), ...tenantNames(request)]);
      await app.engine.passwordBudgets.take(principal);
      const confirmedHash = await app.engine.signIn.confirm(
        principal,
        body.currentPassword,
        auditOrigin,
        request.requester,
      );
      const tenantDb = principal.kind === 'user' ? request.tenantDb : undefined;
      await app.engine.signIn.changePassword(
        principal,
        confirmedHash,
        body.newPassword,
        auditOrigin,
        tenantDb,
        request.requester,
      );
      return reply.code(204).send(null);
    },
  );
}

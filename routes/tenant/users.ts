// Users of the caller's tenant. Callers with the permission manage them; every user reads and changes its own account.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { violatedUniqueConstraint } from '../../db/driver/database-fault.js';
import { EMAIL_CONSTRAINT, findUser, listUsers, userSorts } from '../../db/tenant/user-queries.js';
import { namesOf, refuseWeakPassword } from '../../src/auth/common-passwords.js';
import { addUser, changeUser, removeUser } from '../../src/auth/user-changes.js';
import { AppError } from '../../src/errors.js';
import { versioned } from '../../src/http/row-versions.js';
import type { SecurityEventName } from '../../src/observability/security-catalogue.js';
import { listQuery, pageOf, readPage } from '../shapes/lists.js';
import { actorOf, principalOf, tenantNames } from '../shapes/request-caller.js';
import { UserAnswer } from '../shapes/user-shapes.js';
import { email, flag, givenPassword, idParams, newPassword, patchOf, text } from '../shapes/fields.js';

const name = text(100);
const roles = z
  .array(text(50))
  .min(1)
  .max(20)
  .refine((list) => new Set(list).size === list.length, 'must not name a role twice');

const CreateBody = z
  .strictObject({
    email,
    password: newPassword,
    firstName: name,
    lastName: name,
    roles: roles.default(['member']),
    active: z.boolean().default(true),
  })
  .meta({
    id: 'CreateUser',
    examples: [
      {
        email: 'alfred@wayne.example',
        password: 'dinner is served',
        firstName: 'Alfred',
        lastName: 'Pennyworth',
      },
    ],
  });

const PatchBody = patchOf(
  { email, password: newPassword, firstName: name, lastName: name, roles, active: z.boolean() },
  {
    currentPassword: givenPassword.meta({
      description: 'Needed when callers change their own e-mail address or password.',
    }),
  },
).meta({ id: 'UpdateUser', examples: [{ firstName: 'Alfred J.', active: true }] });

const Query = listQuery(userSorts, {
  search: text(200).optional().meta({ description: 'Text to find in the e-mail address or the names.' }),
  active: flag.optional(),
  role: text(50).optional(),
});

export async function userRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const reading = { access: { scope: 'tenant', permission: 'users:read' } } as const;
  const writing = { access: { scope: 'tenant', permission: 'users:write' } } as const;
  const schema = { tags: ['users'] };
  app.describeTag('users', "Users of the caller's tenant. Every user reads and changes its own account.");
  const { record } = app.engine.security;

  app.get(
    '/',
    {
      config: { ...reading, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        operationId: 'listUsers',
        summary: 'List users',
        querystring: Query,
        response: { 200: pageOf(UserAnswer) },
      },
    },
    async (request) => {
      const page = await readPage(app.engine.cursors, [request.tenantId, 'users'], request.query, (query) =>
        listUsers(request.tenantDb, query),
      );
      return { ...page, data: page.data.map(answer) };
    },
  );

  app.post(
    '/',
    {
      config: {
        access: { ...writing.access, recent: 'to give a role with `users:write` or `roles:write`' },
        errors: ['email-taken'],
      },
      schema: {
        ...schema,
        operationId: 'createUser',
        summary: 'Create a user',
        body: CreateBody,
        response: { 201: UserAnswer },
      },
    },
    async (request, reply) => {
      const { password, roles, ...fields } = request.body;
      refuseWeakPassword('/password', password, [...namesOf(fields), ...tenantNames(request)]);
      // Hashed before the transaction begins, so that no connection is held while the processor works.
      await app.engine.passwordBudgets.take(principalOf(request));
      const passwordHash = await app.engine.passwords.hash(password, request.tenantId, request.requester);
      const user = { ...fields, passwordHash, roles };
      const id = await emailTaken(
        addUser(request.tenantDb, user, actorOf(request), request.auditOrigin, request.tenantLimits.users),
      );
      await request.committed(() => {
        record('user-created', { tenantId: request.tenantId, targetId: id }, request.auditOrigin);
      });
      return reply
        .code(201)
        .header('location', `${app.prefix}/${id}`)
        .send(await read(request, id));
    },
  );

  app.get(
    '/:id',
    {
      config: { access: { ...reading.access, orSelf: true } },
      schema: {
        ...schema,
        operationId: 'getUser',
        summary: 'Read a user',
        params: idParams,
        response: { 200: UserAnswer },
      },
    },
    async (request) => read(request, request.params.id),
  );

  app.patch(
    '/:id',
    {
      config: {
        access: {
          ...writing.access,
          orSelf: true,
          recent:
            "to change another user's password or e-mail address, to give a role with `users:write` or `roles:write`, or to activate a user who has one",
        },
        errors: ['email-taken', 'last-admin', 'wrong-password', 'precondition-failed'],
      },
      schema: {
        ...schema,
        operationId: 'updateUser',
        summary:
          'Change a user. Without the permission, callers can change their own names, e-mail address and password',
        params: idParams,
        body: PatchBody,
        response: { 200: UserAnswer },
      },
    },
    async (request) => {
      const { id } = request.params;
      const { currentPassword, password, roles, ...fields } = request.body;
      const manages = request.permissions.includes(writing.access.permission);
      if (!manages && (roles !== undefined || fields.active !== undefined)) {
        throw new AppError('forbidden', { detail: 'You need the permission "users:write" to change roles or active.' });
      }
      // A stolen token must not be enough to take over the account permanently.
      const takesOver = password !== undefined || fields.email !== undefined;
      const secures = takesOver && id === request.userId;
      if (takesOver && !secures) request.refuseUnlessRecent();
      if (password !== undefined) {
        // Not by request.tenantDb: a write with an Idempotency-Key would hold its transaction while the password is hashed.
        const user = await findUser(app.engine.tenantPools.database(request.tenantId), id);
        refuseWeakPassword('/password', password, [
          ...namesOf({ ...user }),
          ...namesOf(fields),
          ...tenantNames(request),
        ]);
      }
      if (secures || password !== undefined) await app.engine.passwordBudgets.take(principalOf(request));
      const confirmedHash = secures ? await confirmOwnPassword(request, currentPassword) : undefined;
      const passwordHash =
        password === undefined
          ? undefined
          : await app.engine.passwords.hash(password, request.tenantId, request.requester);
      const { tenantId, userId, ifMatch: expected } = request;
      const actor = { ...actorOf(request), confirmedHash };
      const spared = id === userId ? actor.sessionId : undefined;
      const changes = { ...fields, passwordHash, roles };
      const { tenantDb, auditOrigin } = request;
      const ended = await emailTaken(changeUser(tenantDb, id, changes, actor, auditOrigin, { spared, expected }));
      if (!ended) throw new AppError('not-found');
      const target = { tenantId, targetId: id };
      await request.committed(() => {
        for (const event of eventsOf(request.body, id === userId)) record(event, target, auditOrigin);
        if (id !== userId && ended.length > 0)
          record('sessions-ended', { ...target, sessions: ended.length }, auditOrigin);
      });
      await request.announce({ kind: 'change', change: { kind: 'user', tenantId, userId: id } });
      await request.announce({ kind: 'sessions-ended', tenantId, sessionIds: ended });
      return read(request, id);
    },
  );

  app.delete(
    '/:id',
    {
      config: { ...writing, errors: ['last-admin', 'precondition-failed'] },
      schema: {
        ...schema,
        operationId: 'deleteUser',
        summary: 'Remove a user',
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const { tenantDb, tenantId, auditOrigin, ifMatch } = request;
      if (!(await removeUser(tenantDb, id, actorOf(request), auditOrigin, ifMatch))) throw new AppError('not-found');
      await request.committed(() => {
        record('user-removed', { tenantId, targetId: id }, auditOrigin);
      });
      await request.announce({ kind: 'change', change: { kind: 'user', tenantId, userId: id } });
      return reply.code(204).send(null);
    },
  );

  async function confirmOwnPassword(request: FastifyRequest, currentPassword: string | undefined): Promise<string> {
    if (currentPassword === undefined) {
      throw new AppError('invalid-request', {
        issues: [{ path: '/currentPassword', message: 'is needed to change your own e-mail address or password' }],
      });
    }
    // With a stolen token, guessing the password must not be faster here than at sign-in.
    return app.engine.signIn.confirm(principalOf(request), currentPassword, request.auditOrigin, request.requester);
  }
}

/** The security events of a change. @param own whether the callers change themselves */
function eventsOf(
  { password, email, roles, active }: z.output<typeof PatchBody>,
  own: boolean,
): readonly SecurityEventName[] {
  return [
    ...(password === undefined ? [] : [own ? ('password-changed' as const) : ('password-reset' as const)]),
    ...(email === undefined ? [] : ['email-changed' as const]),
    ...(roles === undefined ? [] : ['user-roles-changed' as const]),
    ...(active === undefined ? [] : [active ? ('user-activated' as const) : ('user-deactivated' as const)]),
  ];
}

async function read(request: FastifyRequest, id: string): Promise<UserAnswer> {
  const user = await findUser(request.tenantDb, id);
  if (!user) throw new AppError('not-found');
  const { rowVersion, ...shown } = user;
  return versioned(answer(shown), { rowVersion });
}

function answer(user: Omit<UserAnswer, 'roles'> & { readonly roles: readonly string[] }): UserAnswer {
  return { ...user, roles: [...user.roles] };
}

async function emailTaken<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (violatedUniqueConstraint(error) === EMAIL_CONSTRAINT) throw new AppError('email-taken');
    throw error;
  }
}

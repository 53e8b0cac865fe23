// Users of the caller's tenant. Admins manage them; everybody reads and changes itself.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { violatedUniqueConstraint } from '../db/errors.js';
import { EMAIL_CONSTRAINT, findUser, listUsers, userSorts } from '../db/tenant/users.js';
import { addUser, changeUser, removeUser } from '../src/auth/users.js';
import { AppError } from '../src/errors.js';
import { listQuery, pageOf, readPage } from './lists.js';
import { answerId, email, flag, givenPassword, idParams, newPassword, patchOf, text, timestamp } from './schemas.js';

export const UserAnswer = z.object({
  id: answerId,
  email: z.string(),
  firstName: z.string(),
  lastName: z.string(),
  active: z.boolean(),
  roles: z.array(z.string()),
  createdAt: timestamp,
  updatedAt: timestamp,
});

const name = text(100);
const roles = z
  .array(text(50))
  .max(20)
  .refine((list) => new Set(list).size === list.length, 'must not name a role twice');

const CreateBody = z.strictObject({
  email,
  password: newPassword,
  firstName: name,
  lastName: name,
  roles: roles.default(['member']),
  active: z.boolean().default(true),
});

const PatchBody = patchOf(
  { email, password: newPassword, firstName: name, lastName: name, roles, active: z.boolean() },
  { currentPassword: givenPassword.meta({ description: 'Needed to change the own e-mail address or password.' }) },
);

const Query = listQuery(userSorts, {
  search: text(200).optional().meta({ description: 'Looks into e-mail address and names.' }),
  active: flag.optional(),
  role: text(50).optional(),
});

export async function userRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const admin = { access: { scope: 'tenant', role: 'admin' } } as const;
  const anyUser = { access: { scope: 'tenant' } } as const;
  const schema = { tags: ['users'] };

  app.get(
    '/',
    {
      config: { ...admin, errors: ['invalid-cursor'] },
      schema: { ...schema, summary: 'List users', querystring: Query, response: { 200: pageOf(UserAnswer) } },
    },
    async (request) => {
      const page = await readPage(app.cursors, [request.tenantId, 'users'], request.query, (query) =>
        listUsers(request.tenantDb, query),
      );
      return { ...page, data: page.data.map(answer) };
    },
  );

  app.post(
    '/',
    {
      config: { ...admin, errors: ['email-taken'] },
      schema: { ...schema, summary: 'Create a user', body: CreateBody, response: { 201: UserAnswer } },
    },
    async (request, reply) => {
      const { password, roles, ...fields } = request.body;
      // Hashed before the transaction begins: a connection is not held while the processor works.
      const passwordHash = await app.passwords.hash(password);
      const id = await emailTaken(addUser(request.tenantDb, { ...fields, passwordHash, roles }));
      return reply
        .code(201)
        .header('location', `${app.prefix}/${id}`)
        .send(await read(request, id));
    },
  );

  app.get(
    '/:id',
    {
      config: anyUser,
      schema: {
        ...schema,
        summary: 'Read a user: an admin any, everybody itself',
        params: idParams,
        response: { 200: UserAnswer },
      },
    },
    async (request) => {
      refuseOthers(request, request.params.id);
      return read(request, request.params.id);
    },
  );

  app.patch(
    '/:id',
    {
      config: { ...anyUser, errors: ['email-taken', 'last-admin', 'wrong-password'] },
      schema: {
        ...schema,
        summary: 'Change a user: an admin any, everybody its own name, e-mail address and password',
        params: idParams,
        body: PatchBody,
        response: { 200: UserAnswer },
      },
    },
    async (request) => {
      const { id } = request.params;
      const { currentPassword, password, roles, ...fields } = request.body;
      refuseOthers(request, id);
      if (!request.isTenantAdmin && (roles !== undefined || fields.active !== undefined)) {
        throw new AppError('forbidden', { detail: 'Only an admin changes roles and active.' });
      }
      // A stolen token must not be enough to take the account over for good.
      if (id === request.userId && (password !== undefined || fields.email !== undefined)) {
        await confirmPassword(request, currentPassword);
      }
      const passwordHash = password === undefined ? undefined : await app.passwords.hash(password);
      const found = await emailTaken(changeUser(request.tenantDb, id, { ...fields, passwordHash, roles }));
      if (!found) throw new AppError('not-found');
      await app.events.publish({ kind: 'user', tenantId: request.tenantId, userId: id });
      return read(request, id);
    },
  );

  app.delete(
    '/:id',
    {
      config: { ...admin, errors: ['last-admin'] },
      schema: { ...schema, summary: 'Remove a user', params: idParams, response: { 204: z.null() } },
    },
    async (request, reply) => {
      const { id } = request.params;
      if (!(await removeUser(request.tenantDb, id))) throw new AppError('not-found');
      await app.events.publish({ kind: 'user', tenantId: request.tenantId, userId: id });
      return reply.code(204).send(null);
    },
  );

  async function confirmPassword(request: FastifyRequest, currentPassword: string | undefined): Promise<void> {
    if (currentPassword === undefined) {
      throw new AppError('invalid-request', {
        issues: [{ path: '/currentPassword', message: 'is needed to change the own e-mail address or password' }],
      });
    }
    // Whoever holds a stolen token must not find the password faster here than at sign-in.
    await app.signIn.confirm(request.tenantId, request.userId, currentPassword);
  }
}

type UserAnswer = z.output<typeof UserAnswer>;

async function read(request: FastifyRequest, id: string): Promise<UserAnswer> {
  const user = await findUser(request.tenantDb, id);
  if (!user) throw new AppError('not-found');
  return answer(user);
}

function answer(user: Omit<UserAnswer, 'roles'> & { readonly roles: readonly string[] }): UserAnswer {
  return { ...user, roles: [...user.roles] };
}

/** 403 also for an id that does not exist: whether it does is none of the caller's business. */
function refuseOthers(request: FastifyRequest, id: string): void {
  if (!request.isTenantAdmin && id !== request.userId)
    throw new AppError('forbidden', { detail: 'This needs the role "admin".' });
}

async function emailTaken<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (violatedUniqueConstraint(error) === EMAIL_CONSTRAINT) throw new AppError('email-taken');
    throw error;
  }
}

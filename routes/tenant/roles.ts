// Roles of the caller's tenant: the built-in roles, and the tenant's own roles.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { findRole, listRoles, roleSorts, type Role } from '../../db/tenant/role-queries.js';
import { permissions as known } from '../../src/auth/permissions.js';
import { addRole, changeRole, removeRole } from '../../src/auth/role-changes.js';
import { AppError } from '../../src/errors.js';
import { versioned } from '../../src/http/row-versions.js';
import { listQuery, pageOf, readPage } from '../shapes/lists.js';
import { answerId, idParams, patchOf, text, timestamp } from '../shapes/fields.js';
import { actorOf } from '../shapes/request-caller.js';

const RoleAnswer = z
  .object({
    id: answerId,
    name: z.string(),
    description: z.string().nullable(),
    builtIn: z
      .boolean()
      .meta({ description: 'Whether the role is built in: such a role cannot be changed or removed.' }),
    permissions: z.array(z.string()),
    createdAt: timestamp,
    updatedAt: timestamp,
  })
  .meta({ id: 'Role' });

/** Users get roles by name, so no two names may look alike. */
const name = z
  .string()
  .max(50)
  .regex(/^[a-z0-9]+(?:-[a-z0-9]+)*$/, 'must be lower-case letters, digits and single dashes');

const description = text(200).nullable();

const permission = z.enum(known, 'is not a permission');
const permissions = z
  .array(permission)
  .max(known.length)
  .refine((list) => new Set(list).size === list.length, 'must not name a permission twice');

const CreateBody = z.strictObject({ name, description: description.optional(), permissions }).meta({
  id: 'CreateRole',
  examples: [{ name: 'clerk', description: 'Sells and counts', permissions: ['products:read', 'products:write'] }],
});
const PatchBody = patchOf({ name, description, permissions }, {}).meta({
  id: 'UpdateRole',
  examples: [{ description: 'Only looks', permissions: ['products:read'] }],
});

const Query = listQuery(roleSorts, {
  search: text(200).optional().meta({ description: 'Text to find in the name or description.' }),
});

export async function roleRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const reading = { access: { scope: 'tenant', permission: 'roles:read' } } as const;
  const writing = { access: { scope: 'tenant', permission: 'roles:write' } } as const;
  const giving = {
    access: { ...writing.access, recent: 'to set permissions that include `users:write` or `roles:write`' },
  } as const;
  const schema = { tags: ['roles'] };
  app.describeTag('roles', "Roles of the caller's tenant: sets of permissions that users hold.");
  const { record } = app.engine.security;

  app.get(
    '/',
    {
      config: { ...reading, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        operationId: 'listRoles',
        summary: 'List roles',
        querystring: Query,
        response: { 200: pageOf(RoleAnswer) },
      },
    },
    async (request) => {
      const page = await readPage(app.engine.cursors, [request.tenantId, 'roles'], request.query, (query) =>
        listRoles(request.tenantDb, query),
      );
      return { ...page, data: page.data.map(answer) };
    },
  );

  app.post(
    '/',
    {
      config: { ...giving, errors: ['role-taken'] },
      schema: {
        ...schema,
        operationId: 'createRole',
        summary: 'Create a role. The caller must hold every permission of the role',
        body: CreateBody,
        response: { 201: RoleAnswer },
      },
    },
    async (request, reply) => {
      const { tenantDb, tenantId, body, auditOrigin } = request;
      const id = await addRole(tenantDb, body, actorOf(request), auditOrigin);
      await request.committed(() => {
        record('role-created', { tenantId, targetId: id }, auditOrigin);
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
      config: reading,
      schema: {
        ...schema,
        operationId: 'getRole',
        summary: 'Read a role',
        params: idParams,
        response: { 200: RoleAnswer },
      },
    },
    async (request) => read(request, request.params.id),
  );

  app.patch(
    '/:id',
    {
      config: { ...giving, errors: ['role-taken', 'built-in-role', 'precondition-failed'] },
      schema: {
        ...schema,
        operationId: 'updateRole',
        summary: 'Change a role. The caller must hold every permission of the role, before and after the change',
        params: idParams,
        body: PatchBody,
        response: { 200: RoleAnswer },
      },
    },
    async (request) => {
      const { id } = request.params;
      const { tenantDb, tenantId, body, auditOrigin, ifMatch } = request;
      if (!(await changeRole(tenantDb, id, body, actorOf(request), auditOrigin, ifMatch)))
        throw new AppError('not-found');
      await request.committed(() => {
        record('role-changed', { tenantId, targetId: id, fields: Object.keys(body) }, auditOrigin);
      });
      await request.announce({ kind: 'change', change: { kind: 'roles', tenantId } });
      return read(request, id);
    },
  );

  app.delete(
    '/:id',
    {
      config: { ...writing, errors: ['built-in-role', 'role-in-use', 'precondition-failed'] },
      schema: {
        ...schema,
        operationId: 'deleteRole',
        summary: 'Remove a role that no user holds',
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const { tenantDb, tenantId, params, auditOrigin, ifMatch } = request;
      if (!(await removeRole(tenantDb, params.id, actorOf(request), auditOrigin, ifMatch)))
        throw new AppError('not-found');
      await request.committed(() => {
        record('role-removed', { tenantId, targetId: params.id }, auditOrigin);
      });
      return reply.code(204).send(null);
    },
  );
}

async function read(request: FastifyRequest, id: string): Promise<z.output<typeof RoleAnswer>> {
  const role = await findRole(request.tenantDb, id);
  if (!role) throw new AppError('not-found');
  const { rowVersion, ...shown } = role;
  return versioned(answer(shown), { rowVersion });
}

function answer(role: Role): z.output<typeof RoleAnswer> {
  return { ...role, permissions: [...role.permissions] };
}

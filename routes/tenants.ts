// Tenants: operators make, list, change and remove them; a user reads and renames its own, with the permission, and sees no
// other.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { insertAudit } from '../db/audit.js';
import { findTenant, listTenants, tenantSorts, type TenantRecord } from '../db/central/tenants.js';
import { changeTenant, signOutTenant, tenantChange } from '../src/tenancy/changes.js';
import { OPERATORS } from '../src/auth/passwords.js';
import type { Config } from '../src/config.js';
import { AppError } from '../src/errors.js';
import { slugify } from '../src/tenancy/ids.js';
import { tenantStatuses } from '../src/tenancy/lifecycle.js';
import { forEachLimit, limitsInForce, limitsShown, parseLimits } from '../src/tenancy/limits.js';
import type { GivenKey } from '../src/tenancy/earlier-requests.js';
import { parsePoolOptions, poolLimits } from '../src/tenancy/pool-options.js';
import { listQuery, pageOf, readPage } from './lists.js';
import { principalOf } from './sessions.js';
import { answerId, email, id, idParams, newPassword, patchOf, slug, text, timestamp } from './schemas.js';

const PoolOptions = z.object({
  max: z.number(),
  acquireTimeout: z.number(),
  timeout: z.number(),
  idleTimeoutMillis: z.number(),
});

const LimitsAnswer = z.object(forEachLimit(() => z.number().nullable()));

const TenantAnswer = z.object({
  id: answerId,
  name: z.string(),
  slug: z.string(),
  clusterId: answerId.nullable().meta({ description: "The cluster that holds the tenant's database." }),
  status: z.enum(tenantStatuses),
  active: z.boolean(),
  poolOptions: PoolOptions.meta({
    description: 'The options in force: `max` in connections, the others in milliseconds.',
  }),
  limits: LimitsAnswer.meta({
    description:
      'The limits in force: requests per second, connections, milliseconds, users, products and bytes. null means no limit.',
  }),
  schemaVersion: z.string(),
  deletedAt: timestamp.nullable(),
  purgeAfter: timestamp.nullable().meta({ description: 'A deleted tenant can be restored until this time.' }),
  createdAt: timestamp,
  updatedAt: timestamp,
});

const name = text(200);

/** Checked by its own rules (422), not by the request's (400): what is wrong with it is a setting, not the request. */
const poolOptions = z.record(z.string(), z.unknown()).meta({
  description:
    'Whole numbers: max (1–100 connections), acquireTimeout (100–60,000 ms), timeout (100–600,000 ms), idleTimeoutMillis (100–3,600,000 ms). An option that is left out keeps its value; in a new tenant it gets the default. null restores the default.',
});

/** Likewise. */
const limits = z.record(z.string(), z.unknown()).meta({
  description:
    'Whole numbers: requestsPerSecond (1–100,000), connections (1–400), statementTimeout (100–600,000 ms), users (1–1,000,000), products (1–100,000,000), storageBytes (1,048,576–2^50). A limit that is left out keeps its value; in a new tenant it gets the default. null restores the default.',
});

/** PostgreSQL counts bytes. */
const databaseName = text(63).refine((name) => Buffer.byteLength(name) <= 63, 'must be at most 63 bytes long');

const adopt = z.strictObject({ clusterId: id, database: databaseName }).meta({
  description: "An existing database that becomes the tenant's database. The cluster's provisioner must own it.",
});

const CreateBody = z.strictObject({
  name,
  slug: slug.optional().meta({ description: 'Derived from the name when it is left out.' }),
  admin: z.strictObject({ email, password: newPassword, firstName: text(100), lastName: text(100) }),
  poolOptions: poolOptions.optional(),
  limits: limits.optional(),
  region: text(100).optional().meta({ description: 'The region of the cluster to create the database on.' }),
  clusterId: id
    .optional()
    .meta({ description: 'The cluster to create the database on; when left out, the least loaded one.' }),
  adopt: adopt.optional(),
});

const PatchBody = patchOf({ name, slug, poolOptions, limits, active: z.boolean() }, {});
/** Names of other headers are not looked at. */
const CreateHeaders = z.looseObject({
  'idempotency-key': z
    .string()
    .regex(/^[\x21-\x7e]{1,200}$/, 'must be 1 to 200 visible ASCII characters')
    .optional()
    .meta({
      description:
        'Identifies the request. Sending it again with the same key within 24 hours creates no second tenant.',
    }),
});

const Query = listQuery(tenantSorts, {
  search: text(200).optional().meta({ description: 'Text to find in the name or slug.' }),
  status: z.enum(tenantStatuses).optional(),
});

const PurgeQuery = z.strictObject({
  database: z.enum(['drop', 'keep']).optional().meta({
    description:
      'What to do with the database. When left out, a database that the service created is dropped, and an adopted one is kept.',
  }),
});

export async function tenantRoutes(fastify: FastifyInstance, { config }: { config: Config }): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const operator = { access: { scope: 'operator' } } as const;
  const schema = { tags: ['tenants'] };

  app.get(
    '/',
    {
      config: { ...operator, errors: ['invalid-cursor'] },
      schema: { ...schema, summary: 'List tenants', querystring: Query, response: { 200: pageOf(TenantAnswer) } },
    },
    async (request) => {
      const page = await readPage(app.cursors, ['operators', 'tenants'], request.query, (query) =>
        listTenants(app.registry, query),
      );
      return { ...page, data: page.data.map(answer) };
    },
  );

  app.post(
    '/',
    {
      config: {
        ...operator,
        errors: [
          'slug-taken',
          'email-taken',
          'invalid-pool-options',
          'invalid-limits',
          'no-cluster',
          'not-adoptable',
          'provisioning-failed',
          'adoption-failed',
          'idempotency-key-in-use',
          'idempotency-key-reused',
        ],
      },
      schema: {
        ...schema,
        summary: 'Create a tenant with its database, its database role and its first admin',
        headers: CreateHeaders,
        body: CreateBody,
        response: { 201: TenantAnswer },
      },
    },
    async (request, reply) => {
      const { name, admin, region, clusterId, adopt } = request.body;
      const { password, ...person } = admin;
      const slug = request.body.slug ?? slugFrom(name);
      const poolOptions = parsePoolOptions(request.body.poolOptions ?? {});
      const limits = parseLimits(request.body.limits ?? {});
      if (adopt && (region !== undefined || clusterId !== undefined))
        throw new AppError('invalid-request', {
          issues: [{ path: '/adopt', message: 'already names the cluster: leave out region and clusterId' }],
        });
      const key = requestKey(request);
      if (adopt && key)
        throw new AppError('invalid-request', {
          issues: [
            { path: '/adopt', message: 'cannot be combined with an Idempotency-Key: a database is adopted only once' },
          ],
        });
      // Beside the making of the database, which waits for the disk meanwhile.
      await app.passwordBudgets.take(principalOf(request));
      const passwordHash = app.passwords.hash(password, OPERATORS);
      passwordHash.catch(() => undefined);
      const wanted = { name, slug, poolOptions, limits, admin: { ...person, passwordHash } };
      const tenant = adopt
        ? await app.adoption.adopt(wanted, adopt, request.auditOrigin)
        : await app.provisioning.create(
            { ...wanted, wish: { region, clusterId }, requestKey: key },
            request.auditOrigin,
          );
      if (limitsInForce(tenant.limits, config.tenants.limits).connections !== undefined)
        await app.applyConnectionLimit(tenant.id);
      return reply.code(201).header('location', `${app.prefix}/${tenant.id}`).send(answer(tenant));
    },
  );

  /** The key that a request came with, if it did. */
  function requestKey({
    principal,
    headers,
    body,
  }: FastifyRequest & { headers: z.output<typeof CreateHeaders> }): GivenKey | undefined {
    const key = headers['idempotency-key'];
    if (key === undefined || principal?.kind !== 'operator') return undefined;
    return {
      operatorId: principal.operatorId,
      key,
      requestHash: app.requestHash.of(body),
      matches: (hash) => app.requestHash.matches(body, hash),
    };
  }

  app.get(
    '/:id',
    {
      config: { access: { scope: 'platform', permission: 'tenant:read' } },
      schema: { ...schema, summary: 'Read a tenant', params: idParams, response: { 200: TenantAnswer } },
    },
    async (request) => {
      hideOthers(request, request.params.id);
      const tenant = await findTenant(app.registry, request.params.id);
      if (!tenant) throw new AppError('not-found');
      return answer(tenant);
    },
  );

  app.patch(
    '/:id',
    {
      config: {
        access: { scope: 'platform', permission: 'tenant:write' },
        errors: ['slug-taken', 'tenant-state', 'invalid-pool-options', 'invalid-limits'],
      },
      schema: {
        ...schema,
        summary: 'Change a tenant. Its own users can change only its name',
        params: idParams,
        body: PatchBody,
        response: { 200: TenantAnswer },
      },
    },
    async (request) => {
      const { id } = request.params;
      const { poolOptions, limits, active, ...changes } = request.body;
      hideOthers(request, id);
      if (request.principal?.kind === 'user' && Object.keys(request.body).some((key) => key !== 'name')) {
        throw new AppError('forbidden', {
          detail: 'A user can change only the name of its tenant. Ask an operator for other changes.',
        });
      }
      const wanted = {
        ...changes,
        ...(poolOptions && { poolOptions: parsePoolOptions(poolOptions) }),
        ...(limits && { limits: parseLimits(limits) }),
      };
      if (active !== undefined)
        return answer(await app.lifecycle[active ? 'resume' : 'suspend'](id, request.auditOrigin, wanted));
      // The registry cannot see a user's rights: they are looked at last before its transaction.
      await app.admitAgain(request);
      const tenant = await changeTenant(app.registry, id, wanted, request.auditOrigin);
      // The registry has told the others; here it is effective before the answer.
      await app.events.publish({ kind: 'tenant', tenantId: id });
      if (wanted.limits?.connections !== undefined) await app.applyConnectionLimit(id);
      // Its row stands in the registry, where the change is. What a user of the tenant did is also the tenant's own to read.
      // Not by `tenantDb`: the change is made, and must not be refused any more.
      if (request.principal?.kind === 'user')
        await insertAudit(app.tenantPools.database(id), { ...request.auditOrigin, ...tenantChange(id, wanted) });
      return answer(tenant);
    },
  );

  app.post(
    '/:id/sign-out',
    {
      config: operator,
      schema: {
        ...schema,
        summary: 'End all sessions of a tenant, including those in a restored backup of its database',
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      if (!(await signOutTenant(app.registry, id, request.auditOrigin))) throw new AppError('not-found');
      await app.events.publish({ kind: 'tenant', tenantId: id });
      return reply.code(204).send(null);
    },
  );

  const turns = {
    suspend: 'Suspend a tenant. Its users get 403, and PostgreSQL ends their connections',
    resume: 'Resume a suspended tenant',
    restore: 'Restore a deleted tenant to the status that it had before',
  } as const;
  for (const act of ['suspend', 'resume', 'restore'] as const)
    app.post(
      `/:id/${act}`,
      {
        config: { ...operator, errors: ['tenant-state'] },
        schema: {
          ...schema,
          summary: turns[act],
          params: idParams,
          response: { 200: TenantAnswer },
        },
      },
      async (request) => answer(await app.lifecycle[act](request.params.id, request.auditOrigin)),
    );
  app.post(
    '/:id/rotate-password',
    {
      config: { ...operator, errors: ['tenant-state'] },
      schema: {
        ...schema,
        summary: "Change the password of a tenant's database role. No request fails because of the change",
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      if (!(await app.rotation.rotate(request.params.id, request.auditOrigin))) throw new AppError('not-found');
      return reply.code(204).send(null);
    },
  );

  app.delete(
    '/:id',
    {
      config: { ...operator, errors: ['tenant-state'] },
      schema: {
        ...schema,
        summary: 'Delete a tenant. It can be restored until it is purged',
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await app.lifecycle.delete(request.params.id, request.auditOrigin);
      return reply.code(204).send(null);
    },
  );

  app.post(
    '/:id/purge',
    {
      config: { ...operator, errors: ['tenant-state'] },
      schema: {
        ...schema,
        summary: 'Remove a deleted tenant and its database at once. This cannot be undone',
        params: idParams,
        querystring: PurgeQuery,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await app.lifecycle.purge(request.params.id, request.auditOrigin, request.query.database);
      return reply.code(204).send(null);
    },
  );

  function answer(tenant: TenantRecord): z.output<typeof TenantAnswer> {
    const { id, name, slug, clusterId, status, active, schemaVersion, deletedAt, createdAt, updatedAt } = tenant;
    const purgeAfter = deletedAt && new Date(Date.parse(deletedAt) + config.tenants.deletionGrace).toISOString();
    const limits = limitsInForce(tenant.limits, config.tenants.limits);
    return {
      id,
      name,
      slug,
      clusterId,
      status,
      active,
      poolOptions: poolLimits(tenant.poolOptions, config.tenants.pool, limits),
      limits: limitsShown(limits),
      schemaVersion,
      deletedAt,
      purgeAfter,
      createdAt,
      updatedAt,
    };
  }
}

/** To a tenant's user every other tenant is one that does not exist. */
export function hideOthers(request: FastifyRequest, id: string): void {
  if (request.principal?.kind === 'user' && request.tenantId !== id) throw new AppError('not-found');
}

function slugFrom(name: string): string {
  const made = slugify(name);
  if (!slug.safeParse(made).success)
    throw new AppError('invalid-request', {
      issues: [{ path: '/slug', message: 'is needed: no slug can be derived from this name' }],
    });
  return made;
}

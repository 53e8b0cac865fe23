// Tenants: operators make, list and change them; a user with the permission reads and renames its own tenant, and sees no other.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import type { z } from 'zod';
import { insertAudit } from '../../db/shared/audit-rows.js';
import { findTenant, listTenants, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { changeTenant } from '../../src/tenants/tenant-changes.js';
import type { Config } from '../../src/config/index.js';
import { AppError } from '../../src/errors.js';
import { idempotencyKeyOf } from '../../src/http/idempotency-key.js';
import { REPLAYED } from '../../src/http/sent-answers.js';
import { parseLimits } from '../../src/tenants/tenant-limits.js';
import type { GivenKey } from '../../src/operations/create/earlier-requests.js';
import { CreateTenantBody } from '../../src/operations/create/tenant-request.js';
import { parsePoolOptions } from '../../src/tenants/pool-options.js';
import type { Versioned } from '../../db/shared/row-version.js';
import { pageOf, readPage } from '../shapes/lists.js';
import { hideOthers } from '../shapes/own-tenant.js';
import { principalOf } from '../shapes/request-caller.js';
import { idParams } from '../shapes/fields.js';
import { PatchTenantBody, TenantAnswer, tenantAnswer, TenantsQuery } from '../shapes/tenant-shapes.js';

export async function tenantRoutes(fastify: FastifyInstance, { config }: { config: Config }): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const operator = { access: { scope: 'operator' } } as const;
  const schema = { tags: ['tenants'] };
  app.describeTag('tenants', 'Tenants, their lifecycle, their limits and their usage.');
  const answer = (tenant: TenantRecord): z.output<typeof TenantAnswer> & Versioned => tenantAnswer(tenant, config);

  async function existing(id: string): Promise<TenantRecord> {
    const tenant = await findTenant(app.engine.registry, id);
    if (!tenant) throw new AppError('not-found');
    return tenant;
  }

  app.get(
    '/',
    {
      config: { ...operator, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        operationId: 'listTenants',
        summary: 'List tenants',
        querystring: TenantsQuery,
        response: { 200: pageOf(TenantAnswer) },
      },
    },
    async (request) => {
      const page = await readPage(app.engine.cursors, ['operators', 'tenants'], request.query, (query) =>
        listTenants(app.engine.registry, query),
      );
      return { ...page, data: page.data.map(answer) };
    },
  );

  app.post(
    '/',
    {
      config: {
        access: { ...operator.access, recent: 'to adopt a database' },
        errors: [
          'slug-taken',
          'email-taken',
          'invalid-pool-options',
          'invalid-limits',
          'no-cluster',
          'not-adoptable',
          'provisioning-failed',
          'adoption-failed',
          'operation-unfinished',
        ],
      },
      schema: {
        ...schema,
        operationId: 'createTenant',
        summary: 'Create a tenant with its database, its database role and its first admin',
        body: CreateTenantBody,
        response: { 201: TenantAnswer },
      },
    },
    async (request, reply) => {
      // The new admin gets everything in that database.
      if (request.body.adopt) request.refuseUnlessRecent();
      const requestKey = keyOf(request, () => void reply.header(REPLAYED, 'true'));
      const tenant = await app.engine.tenantRequests.make(request.body, request.auditOrigin, {
        requestKey,
        beforeHash: () => app.engine.passwordBudgets.take(principalOf(request)),
      });
      return reply.code(201).header('location', `${app.prefix}/${tenant.id}`).send(answer(tenant));
    },
  );

  /** The Idempotency-Key of a request, if it has one. The operation that makes the tenant has it, so that it is never done twice. */
  function keyOf({ principal, headers, body }: FastifyRequest, onKnown: () => void): GivenKey | undefined {
    const key = idempotencyKeyOf(headers['idempotency-key']);
    if (key === undefined || principal?.kind !== 'operator') return undefined;
    return {
      operatorId: principal.operatorId,
      key,
      requestHash: app.engine.requestHash.of(body),
      matches: (hash) => app.engine.requestHash.matches(body, hash),
      onKnown,
    };
  }

  app.get(
    '/:id',
    {
      config: { access: { scope: 'platform', permission: 'tenant:read' } },
      schema: {
        ...schema,
        operationId: 'getTenant',
        summary: 'Read a tenant',
        params: idParams,
        response: { 200: TenantAnswer },
      },
    },
    async (request) => {
      hideOthers(request, request.params.id);
      return answer(await existing(request.params.id));
    },
  );

  app.patch(
    '/:id',
    {
      config: {
        access: { scope: 'platform', permission: 'tenant:write' },
        errors: [
          'slug-taken',
          'tenant-state',
          'operation-unfinished',
          'invalid-pool-options',
          'invalid-limits',
          'precondition-failed',
        ],
        async answerAgain(_request, _reply, id) {
          await app.engine.connectionLimits.applySoon(id);
          return answer(await existing(id));
        },
      },
      schema: {
        ...schema,
        operationId: 'updateTenant',
        summary: 'Change a tenant. Its own users can change only its name',
        params: idParams,
        body: PatchTenantBody,
        response: { 200: TenantAnswer },
      },
    },
    async (request) => {
      const { id } = request.params;
      const { ifMatch: expected, auditOrigin } = request;
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
        return answer(await app.engine.lifecycle[active ? 'resume' : 'suspend'](id, auditOrigin, wanted, expected));
      // The registry does not know a user's rights, so they are checked again right before its transaction.
      await app.admitAgain(request);
      const audited: Parameters<typeof insertAudit>[1][] = [];
      const tenant = await changeTenant(app.engine.registry, id, wanted, auditOrigin, {
        expected,
        onAudited: (entry) => audited.push({ ...auditOrigin, ...entry }),
      });
      // The registry has notified the other replicas; this makes the change effective on this replica before the answer.
      await app.engine.events.publish({ kind: 'tenant', tenantId: id });
      if (wanted.limits?.connections !== undefined) await app.engine.connectionLimits.applySoon(id);
      // The registry has audited the change. An act of the tenant's user is also in the tenant's own audit. `tenantDb` is not
      // used, because it could still refuse, and the change is already made.
      if (request.principal?.kind === 'user') await insertAudit(app.engine.tenantPools.database(id), ...audited);
      return answer(tenant);
    },
  );
}

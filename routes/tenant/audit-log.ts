// Reading the audit: a tenant's admins read its rows and what operators did to it, and operators read everything in the registry.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { followCentralAudit, listCentralAudit } from '../../db/registry/registry-audit.js';
import { followAudit, listAudit } from '../../db/tenant/tenant-audit.js';
import {
  AuditAnswer,
  auditAnswer,
  auditFilters,
  auditPageOf,
  auditQuery,
  CentralAuditAnswer,
  readAudit,
  shownToTenant,
  targetFilter,
} from '../shapes/audit-shapes.js';
import { hasSqlState } from '../../db/driver/database-fault.js';
import { AppError } from '../../src/errors.js';
import { id, idParams } from '../shapes/fields.js';
import { hideOthers } from '../shapes/own-tenant.js';

const Query = auditQuery({ ...auditFilters, ...targetFilter });
const OfTenantQuery = auditQuery(auditFilters);
const OperatorsQuery = auditQuery({
  ...auditFilters,
  ...targetFilter,
  tenant: id.optional().meta({ description: 'The id of the tenant that the act concerns; it may be removed already.' }),
});

export async function auditRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const { cursors, registry } = app.engine;
  const schema = { tags: ['audit'] };
  app.describeTag('audit', 'Who did what, and when.');

  app.get(
    '/audit',
    {
      config: {
        access: { scope: 'tenant', permission: 'audit:read' },
        errors: ['invalid-cursor'],
      },
      schema: {
        ...schema,
        operationId: 'listAudit',
        summary: "List the tenant's audit entries",
        querystring: Query,
        response: { 200: auditPageOf(AuditAnswer) },
      },
    },
    async (request) => {
      const page = await readAudit(cursors, [request.tenantId, 'audit'], request.query, {
        newestFirst: (wanted) => listAudit(request.tenantDb, wanted),
        oldestFirst: (wanted) => followAudit(request.tenantDb, wanted).then(ifPlaced, whileUpgrading),
      });
      return { ...page, data: page.data.map(auditAnswer) };
    },
  );

  app.get(
    '/tenants/:id/audit',
    {
      config: { access: { scope: 'platform', permission: 'audit:read' }, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        operationId: 'listTenantAudit',
        summary: 'List what operators did to a tenant. A purged tenant keeps its entries',
        params: idParams,
        querystring: OfTenantQuery,
        response: { 200: auditPageOf(AuditAnswer) },
      },
    },
    async (request) => {
      const tenant = request.params.id;
      hideOthers(request, tenant);
      const page = await readAudit(cursors, ['operators', `audit of ${tenant}`], request.query, {
        newestFirst: (wanted) => listCentralAudit(registry, { ...wanted, tenant }),
        oldestFirst: (wanted) => followCentralAudit(registry, { ...wanted, tenant }),
      });
      const entries = page.data.map(auditAnswer);
      return { ...page, data: request.principal?.kind === 'user' ? entries.map(shownToTenant) : entries };
    },
  );

  app.get(
    '/operators/audit',
    {
      config: { access: { scope: 'operator' }, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        operationId: 'listOperatorAudit',
        summary: 'List the audit entries of the registry: acts of operators, their sign-ins, and refused sign-ins',
        querystring: OperatorsQuery,
        response: { 200: auditPageOf(CentralAuditAnswer) },
      },
    },
    async (request) => {
      const page = await readAudit(cursors, ['operators', 'audit'], request.query, {
        newestFirst: (wanted) => listCentralAudit(registry, wanted),
        oldestFirst: (wanted) => followCentralAudit(registry, wanted),
      });
      return { ...page, data: page.data.map((row) => ({ ...auditAnswer(row), tenantId: row.tenantId })) };
    },
  );
}

/*
 * Until a tenant's database is migrated, its rows have no order in which none can be missed: ask again after the migration. First
 * the order has no columns, and then nothing fills them: a row may still get a place before those that were read.
 */

const UNDEFINED_COLUMN = '42703';

function whileUpgrading(error: unknown): never {
  throw hasSqlState(error, UNDEFINED_COLUMN) ? upgrading() : error;
}

function ifPlaced<Page extends { readonly placed: boolean }>(page: Page): Page {
  if (!page.placed) throw upgrading();
  return page;
}

function upgrading(): AppError {
  return new AppError('tenant-upgrading', { retryAfter: 5 });
}

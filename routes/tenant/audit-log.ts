// Reading the audit: a tenant's admins read its rows, and operators read the operators' acts on a tenant. The newest row comes
// first.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { auditActions, type AuditRecord } from '../../db/shared/audit-rows.js';
import { listTenantAudit } from '../../db/registry/registry-audit.js';
import { listAudit } from '../../db/tenant/tenant-audit.js';
import { listQuery, pageOf, readPage } from '../shapes/lists.js';
import { answerId, id, idParams, timestamp } from '../shapes/fields.js';

const AuditAnswer = z.object({
  id: answerId,
  at: timestamp,
  actor: z.object({
    kind: z.enum(['user', 'operator', 'none']),
    id: answerId.nullable(),
  }),
  action: z.string(),
  target: z.object({ kind: z.string(), id: answerId }).nullable(),
  address: z.string().nullable(),
  userAgent: z.string().nullable(),
  requestId: z.string().nullable(),
  details: z.record(z.string(), z.unknown()),
});

/** Bounded, because PostgreSQL does not parse a time of any length, or a time of the year 0. */
const time = z.iso
  .datetime({ abort: true })
  .max(30)
  .refine((value) => value >= '1970', 'must not be before 1970');

const filters = {
  action: z.enum(auditActions).optional(),
  actor: id.optional().meta({ description: 'The id of the user or operator that acted.' }),
  from: time.optional().meta({ description: 'Only entries at this time or later.' }),
  to: time.optional().meta({ description: 'Only entries before this time.' }),
};

const newestFirst = { name: 'at', direction: 'desc' } as const;
const list = { at: true };

const Query = listQuery(list, {
  ...filters,
  target: id.optional().meta({ description: 'The id of the object that was acted on.' }),
}).omit({ sort: true });

const TenantQuery = listQuery(list, filters).omit({ sort: true });

export async function auditRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const schema = { tags: ['audit'], response: { 200: pageOf(AuditAnswer) } };

  app.get(
    '/audit',
    {
      config: { access: { scope: 'tenant', permission: 'audit:read' }, errors: ['invalid-cursor'] },
      schema: { ...schema, summary: "List the tenant's audit entries, newest first", querystring: Query },
    },
    async (request) => {
      const query = { ...request.query, sort: newestFirst };
      const page = await readPage(app.engine.cursors, [request.tenantId, 'audit'], query, (wanted) =>
        listAudit(request.tenantDb, wanted),
      );
      return { ...page, data: page.data.map(answer) };
    },
  );

  app.get(
    '/tenants/:id/audit',
    {
      config: { access: { scope: 'operator' }, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        summary: 'List what operators did to a tenant, newest first. A purged tenant keeps its entries',
        params: idParams,
        querystring: TenantQuery,
      },
    },
    async (request) => {
      const tenantId = request.params.id;
      const query = { ...request.query, sort: newestFirst };
      const page = await readPage(app.engine.cursors, ['operators', `audit of ${tenantId}`], query, (wanted) =>
        listTenantAudit(app.engine.registry, { ...wanted, tenantId }),
      );
      return { ...page, data: page.data.map(answer) };
    },
  );
}

function answer({
  id,
  at,
  action,
  address,
  userAgent,
  requestId,
  details,
  ...row
}: AuditRecord): z.output<typeof AuditAnswer> {
  const target = row.targetKind !== null && row.targetId !== null ? { kind: row.targetKind, id: row.targetId } : null;
  return {
    id,
    at,
    actor: { kind: row.actorKind, id: row.actorId },
    action,
    target,
    address,
    userAgent,
    requestId,
    details: { ...details },
  };
}

// For operators: the connections of this process, and who holds them.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { AppError } from '../../src/errors.js';
import type { SharedStoreState } from '../../src/replicas/shared-store.js';
import { answerId, idParams, whole, wholeInQuery } from '../shapes/fields.js';

const Slots = z
  .object({
    leased: whole.meta({ description: 'Connections that this replica may have open.' }),
    used: whole.meta({ description: 'Connections that are opening, open, closing or unknown.' }),
    unknown: whole.meta({
      description:
        'Connections that were cut or lost, and that the server may still hold. The service asks the server until it knows.',
    }),
    highestUsed: whole,
    waiting: whole.meta({ description: 'Requests that wait for a connection slot.' }),
    idleHolders: whole.meta({ description: 'Tenants that hold an idle connection.' }),
    evictions: whole.meta({ description: 'Idle connections that were closed to make room for another tenant.' }),
    yields: whole.meta({
      description: 'Busy connections that were closed after their request to make room for another tenant.',
    }),
    refused: whole.meta({ description: 'Requests that were refused at once because too many were waiting.' }),
    timedOut: whole.meta({ description: 'Requests that got no connection before their deadline.' }),
  })
  .meta({ id: 'ConnectionSlots' });

const ClusterPools = Slots.extend({
  cluster: z.string().meta({ description: 'Host and port of the PostgreSQL server.' }),
  id: answerId
    .nullable()
    .meta({ description: 'The id of the cluster; null when no cluster is registered at this address.' }),
  name: z.string().nullable(),
  budget: z.object({ tenants: whole, reserve: whole }),
  reserve: Slots.meta({ description: 'The same numbers for provisioning, rollouts and the command line.' }),
});

const Breaker = z
  .object({
    scope: z.enum(['tenant', 'cluster']),
    key: z.string().meta({ description: "The tenant's id, or the server's host and port." }),
    state: z.enum(['closed', 'open', 'half-open']),
    failures: whole.meta({ description: 'Consecutive failures that count towards opening the breaker.' }),
    reason: z
      .string()
      .optional()
      .meta({ description: 'Why the breaker opened: a SQLSTATE, a system error code or a short text.' }),
    openFor: whole.optional().meta({ description: 'Milliseconds since the breaker opened.' }),
    probes: whole.meta({ description: 'Probes since the breaker opened.' }),
    nextProbeIn: whole.optional().meta({ description: 'Milliseconds until the next probe.' }),
    opened: whole.meta({ description: 'How often the breaker has opened.' }),
  })
  .meta({ id: 'Breaker' });

const TenantPool = z
  .object({
    tenantId: answerId,
    cluster: z.string(),
    epoch: whole.meta({ description: "The version of the tenant's settings that the pool was built from." }),
    total: whole.meta({ description: 'Connections that are opening, open or closing.' }),
    idle: whole,
    unknown: whole.meta({ description: 'Connections that were cut or lost, and that the server may still hold.' }),
    waiting: whole.meta({ description: 'Requests that wait for a connection of this pool.' }),
    unusedFor: whole.meta({ description: 'Milliseconds since a request last asked this pool for a connection.' }),
    readOnly: z
      .boolean()
      .meta({ description: 'Whether the database refused writes when the newest connection was opened.' }),
    schemaVersion: z
      .string()
      .optional()
      .meta({ description: "The database's newest migration; absent until a connection has read it." }),
  })
  .meta({ id: 'TenantPool' });

const SharedRedis = z.object({
  available: z
    .boolean()
    .meta({ description: 'Whether this replica uses Redis now. Without Redis, the replica continues on its own.' }),
  since: whole.meta({ description: 'Milliseconds since `available` last changed.' }),
  reason: z.string().optional().meta({ description: 'Why Redis is not available.' }),
});

const Pools = z
  .object({
    clusters: z.array(ClusterPools),
    breakers: z
      .array(Breaker)
      .meta({ description: 'Breakers of databases and servers that fail now or failed recently.' }),
    pools: z.array(TenantPool).meta({ description: 'Tenant pools, the largest first.' }),
    poolCount: whole.meta({ description: 'The number of all tenant pools; `pools` shows at most `limit` of them.' }),
    redis: SharedRedis.nullable().meta({
      description: 'The Redis server that the replicas share; null when none is configured.',
    }),
  })
  .meta({ id: 'Pools' });

const PoolOfTenant = z
  .object({ pool: TenantPool.nullable(), breaker: Breaker.nullable() })
  .meta({ id: 'PoolOfTenant' });

const Query = z.strictObject({
  limit: wholeInQuery(1, 1_000).default(100).meta({ description: 'Tenant pools to show.' }),
});

export async function poolRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const config = { access: { scope: 'operator' } } as const;
  app.describeTag('pools', 'The connections of the replica that answers.');

  app.get(
    '/pools',
    {
      config,
      schema: {
        tags: ['pools'],
        operationId: 'getPools',
        summary: 'Read the connections of the answering replica, by cluster and by tenant',
        querystring: Query,
        response: { 200: Pools },
      },
    },
    async (request) => {
      const pools = app.engine.tenantPools.inspectAll();
      return {
        clusters: app.engine.governors.stats().map((stats) => {
          const known = app.engine.clusterDirectory.peek(stats);
          return { ...stats, id: known?.id ?? null, name: known?.name ?? null };
        }),
        breakers: [...app.engine.breakers.stats().breakers],
        pools: pools.slice(0, request.query.limit),
        poolCount: pools.length,
        redis: app.engine.sharedStore ? sharedRedis(app.engine.sharedStore.state) : null,
      };
    },
  );

  app.get(
    '/tenants/:id/pool',
    {
      config,
      schema: {
        tags: ['pools'],
        operationId: 'getTenantPool',
        summary: "Read a tenant's pool and breaker in the answering replica; null when it has none",
        params: idParams,
        response: { 200: PoolOfTenant },
      },
    },
    async (request) => {
      const { id } = request.params;
      const pool = app.engine.tenantPools.inspect(id);
      if (!pool && !(await findTenant(app.engine.registry, id))) throw new AppError('not-found');
      return { pool: pool ?? null, breaker: app.engine.breakers.state('tenant', id) ?? null };
    },
  );
}

function sharedRedis({ available, since, reason }: SharedStoreState): z.output<typeof SharedRedis> {
  return { available, since: Math.round(since), ...(reason !== undefined && { reason }) };
}

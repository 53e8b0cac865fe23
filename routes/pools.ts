// The connections of this process, as an operator sees them: who holds what, in one look.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { findTenant } from '../db/central/tenants.js';
import { AppError } from '../src/errors.js';
import type { SharedStoreState } from '../src/replicas/redis.js';
import { answerId, idParams } from './schemas.js';

const count = z.number();

const Slots = z.object({
  leased: count.meta({ description: 'Connections that this process may have open.' }),
  used: count.meta({ description: 'Connections that are opening, open or closing, and the unknown ones.' }),
  unknown: count.meta({
    description:
      'Connections that were cut or broke, and whose server may still hold them. Looks at the server find out.',
  }),
  highestUsed: count,
  waiting: count.meta({ description: 'Requests that wait for a connection to be allowed.' }),
  idleHolders: count.meta({ description: 'Tenants with a connection that nobody uses.' }),
  evictions: count.meta({ description: 'Unused connections that were closed for another tenant.' }),
  yields: count.meta({ description: 'Busy connections that were closed for another tenant.' }),
  refused: count.meta({ description: 'Requests refused at once, because too many waited.' }),
  timedOut: count.meta({ description: 'Requests that waited in vain.' }),
});

const ClusterPools = Slots.extend({
  cluster: z.string().meta({ description: 'Host and port of the PostgreSQL server.' }),
  id: answerId.nullable().meta({ description: 'Of the cluster; null where no cluster is registered there.' }),
  name: z.string().nullable(),
  budget: z.object({ tenants: count, reserve: count }),
  reserve: Slots.meta({ description: 'The same of provisioning, rollouts and the command line.' }),
});

const Breaker = z.object({
  scope: z.enum(['tenant', 'cluster']),
  key: z.string().meta({ description: "The tenant's id, or the server's host and port." }),
  state: z.enum(['closed', 'open', 'half-open']),
  failures: count.meta({ description: 'Failures in a row that count towards opening.' }),
  reason: z
    .string()
    .optional()
    .meta({ description: 'What opened it: a SQLSTATE, a system error code or a short text.' }),
  openFor: count.optional().meta({ description: 'Milliseconds since it opened.' }),
  probes: count.meta({ description: 'Probes since it opened.' }),
  nextProbeIn: count.optional().meta({ description: 'Milliseconds.' }),
  opened: count.meta({ description: 'Times it opened since it is remembered.' }),
});

const TenantPool = z.object({
  tenantId: answerId,
  cluster: z.string(),
  epoch: count.meta({ description: "The version of the tenant's settings that the pool was built from." }),
  total: count.meta({ description: 'Connections that are opening, open or closing.' }),
  idle: count,
  unknown: count.meta({ description: 'Connections that were cut or broke, and that the server may still hold.' }),
  waiting: count.meta({ description: 'Requests that wait for a connection of this pool.' }),
  unusedFor: count.meta({ description: 'Milliseconds since the pool was last asked for a connection.' }),
  readOnly: z
    .boolean()
    .meta({ description: 'Whether the database took no writes when the newest connection was opened.' }),
  schemaVersion: z
    .string()
    .optional()
    .meta({ description: "The database's newest migration; absent while no connection has found it out." }),
});

const SharedRedis = z.object({
  available: z
    .boolean()
    .meta({ description: 'Whether this process uses it now. While it is away, the process goes on alone.' }),
  since: count.meta({ description: 'Milliseconds since it has been so.' }),
  reason: z.string().optional().meta({ description: 'Why it is away.' }),
});

const Pools = z.object({
  clusters: z.array(ClusterPools),
  breakers: z.array(Breaker).meta({ description: 'Of databases and servers that are out of order, or were of late.' }),
  pools: z.array(TenantPool).meta({ description: 'The largest first.' }),
  poolCount: count.meta({ description: 'Pools in all, of which `pools` shows at most `limit`.' }),
  redis: SharedRedis.nullable().meta({ description: 'The Redis that replicas share; null where none is configured.' }),
});

const Query = z.strictObject({
  limit: z
    .string()
    .regex(/^\d{1,4}$/, 'must be a whole number')
    .transform(Number)
    .pipe(z.number().min(1).max(1_000))
    .default(100)
    .meta({ description: 'Tenant pools that are shown: 1 to 1,000, by default 100.' }),
});

export async function poolRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const config = { access: { scope: 'operator' } } as const;

  app.get(
    '/pools',
    {
      config,
      schema: {
        tags: ['pools'],
        summary: 'The connections of the replica that answers, by cluster and by tenant',
        querystring: Query,
        response: { 200: Pools },
      },
    },
    async (request) => {
      const pools = app.engine.tenantPools.inspectAll();
      return {
        clusters: app.engine.clusters.stats().map((stats) => {
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
        summary: "A tenant's connections and breaker in the replica that answers; null where it has none",
        params: idParams,
        response: { 200: z.object({ pool: TenantPool.nullable(), breaker: Breaker.nullable() }) },
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

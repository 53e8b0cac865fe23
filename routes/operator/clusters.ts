// Clusters: operators register, read, change, drain and remove the PostgreSQL servers that hold tenants' databases.
import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import {
  clusterSorts,
  findCluster,
  listClusters,
  loadOfClusters,
  type ClusterLoad,
  type ClusterRecord,
} from '../../db/registry/cluster-queries.js';
import type { Versioned } from '../../db/shared/row-version.js';
import { AppError } from '../../src/errors.js';
import { versioned } from '../../src/http/row-versions.js';
import { listQuery, pageOf, readPage } from '../shapes/lists.js';
import { CheckAnswer, ClusterAnswer, warnings } from '../shapes/cluster-shapes.js';
import { exactText, flag, idParams, patchOf, text } from '../shapes/fields.js';

/** An IP address or a DNS name: no socket path, no port, nothing that a driver could read as more than a host. */
const host = text(253)
  .refine(
    (value) => isIP(value) !== 0 || /^[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?$/i.test(value),
    'must be a host name or an IP address',
  )
  .meta({ description: 'A host name or an IP address that CLUSTER_HOSTS allows.' });

const whole = (from: number, to: number): z.ZodInt => z.int().min(from).max(to);

/** Bodies have at most 64 KiB; a certificate chain has about 6. */
const tlsCa = text(30_000).refine(isCertificate, 'must be certificates in PEM').meta({
  description: 'The CA certificates (PEM) to trust with `verify-full`; null uses the built-in list of Node.js.',
});

const fields = {
  name: text(100),
  host,
  port: whole(1, 65_535),
  region: text(100).nullable(),
  tls: z.enum(['off', 'verify-full']),
  tlsCa: tlsCa.nullable(),
  provisionerPassword: exactText(1_000),
  connectionBudget: whole(2, 100_000),
  connectionReserve: whole(2, 1_000),
  weight: whole(1, 1_000),
  accepting: z.boolean(),
  standbyTarget: whole(0, 1_000),
} as const;

const CreateBody = z.strictObject({
  name: fields.name,
  host,
  port: fields.port.default(5432),
  region: fields.region.default(null),
  provisionerUser: exactText(63),
  provisionerPassword: fields.provisionerPassword,
  tls: fields.tls.default('verify-full'),
  tlsCa: fields.tlsCa.default(null),
  connectionBudget: fields.connectionBudget,
  connectionReserve: fields.connectionReserve.default(6),
  weight: fields.weight.default(100),
  accepting: fields.accepting.default(true),
  standbyTarget: fields.standbyTarget.default(0),
});

const PatchBody = patchOf(fields, {});

/** These decide which server gets the tenants' data and the provisioner's password. */
const OF_CONNECTION = ['host', 'port', 'tls', 'tlsCa', 'provisionerPassword'] as const;

const Query = listQuery(clusterSorts, { region: text(100).optional(), accepting: flag.optional() });

export async function clusterRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const operator = { access: { scope: 'operator' } } as const;
  const connecting = { access: { scope: 'operator', recent: true } } as const;
  const schema = { tags: ['clusters'] };
  const registration = app.engine.clusterRegistration;
  const { record } = app.engine.security;

  app.get(
    '/',
    {
      config: { ...operator, errors: ['invalid-cursor'] },
      schema: { ...schema, summary: 'List clusters', querystring: Query, response: { 200: pageOf(ClusterAnswer) } },
    },
    async (request) => {
      await registration.ensureDefault();
      const page = await readPage(app.engine.cursors, ['operators', 'clusters'], request.query, (query) =>
        listClusters(app.engine.registry, query),
      );
      return { ...page, data: await answers(page.data) };
    },
  );

  app.post(
    '/',
    {
      config: { ...connecting, errors: ['cluster-taken', 'cluster-host-not-allowed', 'cluster-unusable'] },
      schema: {
        ...schema,
        summary: 'Register a PostgreSQL server. The service checks it and creates the template database there',
        body: CreateBody,
        response: { 201: ClusterAnswer.extend({ warnings }) },
      },
    },
    async (request, reply) => {
      const { cluster, warnings } = await registration.register(request.body, request.auditOrigin);
      record('cluster-registered', { clusterId: cluster.id }, request.auditOrigin);
      const made = { ...(await answer(cluster)), warnings: [...warnings] };
      return reply.code(201).header('location', `${app.prefix}/${cluster.id}`).send(made);
    },
  );

  app.get(
    '/:id',
    {
      config: operator,
      schema: { ...schema, summary: 'Read a cluster', params: idParams, response: { 200: ClusterAnswer } },
    },
    async (request) => {
      const cluster = await findCluster(app.engine.registry, request.params.id);
      if (!cluster) throw new AppError('not-found');
      return answer(cluster);
    },
  );

  app.patch(
    '/:id',
    {
      config: {
        access: { ...operator.access, recent: `to change ${OF_CONNECTION.join(', ')}` },
        errors: [
          'cluster-taken',
          'cluster-in-use',
          'default-cluster',
          'cluster-host-not-allowed',
          'cluster-unusable',
          'provisioner-password-needed',
          'precondition-failed',
        ],
      },
      schema: {
        ...schema,
        summary: 'Change a cluster. Changing host, port, tls or tlsCa needs provisionerPassword',
        params: idParams,
        body: PatchBody,
        response: { 200: ClusterAnswer },
      },
    },
    async (request) => {
      const { params, body, auditOrigin, ifMatch } = request;
      if (OF_CONNECTION.some((field) => body[field] !== undefined)) request.refuseUnlessRecent();
      const changed = await registration.change(params.id, body, auditOrigin, ifMatch);
      record('cluster-changed', { clusterId: params.id, fields: Object.keys(body) }, auditOrigin);
      return answer(changed);
    },
  );

  app.post(
    '/:id/check',
    {
      config: operator,
      schema: {
        ...schema,
        summary: 'Check whether the server can hold tenants',
        params: idParams,
        response: { 200: CheckAnswer },
      },
    },
    async (request) => {
      const { problems, warnings, inspection } = await registration.check(request.params.id);
      return {
        usable: problems.length === 0,
        problems: [...problems],
        warnings: [...warnings],
        version: inspection?.version ?? null,
        clockSkew: inspection?.clockSkew ?? null,
      };
    },
  );

  app.post(
    '/:id/drain',
    {
      config: operator,
      schema: {
        ...schema,
        summary: 'Place no new tenants on a cluster, and drop its standby databases',
        params: idParams,
        response: { 200: ClusterAnswer.pick({ tenants: true, standbyDatabases: true }) },
      },
    },
    async (request) => registration.drain(request.params.id, request.auditOrigin),
  );

  app.delete(
    '/:id',
    {
      config: { ...operator, errors: ['cluster-in-use', 'default-cluster', 'precondition-failed'] },
      schema: {
        ...schema,
        summary: 'Remove an empty cluster from the registry. The server stays unchanged',
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const { params, auditOrigin, ifMatch } = request;
      await registration.remove(params.id, auditOrigin, ifMatch);
      record('cluster-removed', { clusterId: params.id }, auditOrigin);
      return reply.code(204).send(null);
    },
  );

  async function answer(cluster: ClusterRecord): Promise<z.output<typeof ClusterAnswer> & Versioned> {
    const [made] = await answers([cluster]);
    if (!made) throw new Error('one answer for one cluster');
    return versioned(made, cluster);
  }

  async function answers(clusters: readonly ClusterRecord[]): Promise<z.output<typeof ClusterAnswer>[]> {
    const loads = await loadOfClusters(
      app.engine.registry,
      clusters.map(({ id }) => id),
    );
    return clusters.map((cluster) => describe(cluster, loads.get(cluster.id)));
  }

  function describe(row: ClusterRecord, load: ClusterLoad | undefined): z.output<typeof ClusterAnswer> {
    const { id, name, host, port, region, weight, accepting, standbyTarget, createdAt, updatedAt } = row;
    const { isDefault, tls, budget, user } = registration.settings(row);
    return {
      id,
      name,
      host,
      port,
      region,
      isDefault,
      provisionerUser: user,
      tls: tls === false ? 'off' : 'verify-full',
      connectionBudget: budget.tenants,
      connectionReserve: budget.reserve,
      weight,
      accepting,
      standbyTarget,
      tenants: load?.tenants ?? 0,
      standbyDatabases: load?.standbyDatabases ?? 0,
      createdAt,
      updatedAt,
    };
  }
}

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).raw.length > 0;
  } catch {
    return false;
  }
}

// Clusters: operators register, read, change, drain and remove the PostgreSQL servers that hold tenants' databases.
import type { FastifyInstance, FastifyReply } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { clusterSorts, findCluster, listClusters, type ClusterRecord } from '../../db/registry/cluster-queries.js';
import type { Versioned } from '../../db/shared/row-version.js';
import { CreateClusterBody } from '../../src/clusters/cluster-request.js';
import { AppError } from '../../src/errors.js';
import { versioned } from '../../src/http/row-versions.js';
import { showCheck, showClusters } from '../../src/operations/cluster-shown.js';
import { listQuery, pageOf, readPage } from '../shapes/lists.js';
import { CheckAnswer, ClusterAnswer, PatchClusterBody, warnings } from '../shapes/cluster-shapes.js';
import { flag, idParams, text } from '../shapes/fields.js';

/** These decide which server gets the tenants' data and the provisioner's password. */
const OF_CONNECTION = ['host', 'port', 'tls', 'tlsCa', 'provisionerPassword'] as const;

const Query = listQuery(clusterSorts, { region: text(100).optional(), accepting: flag.optional() });

export async function clusterRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const operator = { access: { scope: 'operator' } } as const;
  const connecting = { access: { scope: 'operator', recent: true } } as const;
  const schema = { tags: ['clusters'] };
  app.describeTag('clusters', "The PostgreSQL servers that hold tenants' databases.");
  const registration = app.engine.clusterRegistration;
  const { record } = app.engine.security;

  app.get(
    '/',
    {
      config: { ...operator, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        operationId: 'listClusters',
        summary: 'List clusters',
        querystring: Query,
        response: { 200: pageOf(ClusterAnswer) },
      },
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
      config: {
        ...connecting,
        errors: ['cluster-taken', 'cluster-host-not-allowed', 'cluster-unusable'],
        answerAgain: async (_request, reply, id) =>
          sendMade(reply, await existing(id), (await registration.check(id)).warnings),
      },
      schema: {
        ...schema,
        operationId: 'createCluster',
        summary: 'Register a PostgreSQL server. The service checks it and creates the template database there',
        body: CreateClusterBody,
        response: { 201: ClusterAnswer.extend({ warnings }).meta({ id: 'RegisteredCluster' }) },
      },
    },
    async (request, reply) => {
      const { cluster, warnings } = await registration.register(request.body, request.auditOrigin);
      record('cluster-registered', { clusterId: cluster.id }, request.auditOrigin);
      return sendMade(reply, cluster, warnings);
    },
  );

  app.get(
    '/:id',
    {
      config: operator,
      schema: {
        ...schema,
        operationId: 'getCluster',
        summary: 'Read a cluster',
        params: idParams,
        response: { 200: ClusterAnswer },
      },
    },
    async (request) => answer(await existing(request.params.id)),
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
        answerAgain: async (_request, _reply, id) => answer(await existing(id)),
      },
      schema: {
        ...schema,
        operationId: 'updateCluster',
        summary: 'Change a cluster. Changing host, port, tls or tlsCa needs provisionerPassword',
        params: idParams,
        body: PatchClusterBody,
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
      config: { ...operator, changesNothing: true },
      schema: {
        ...schema,
        operationId: 'checkCluster',
        summary: 'Check whether the server can hold tenants',
        params: idParams,
        response: { 200: CheckAnswer },
      },
    },
    async (request) => showCheck(await registration.check(request.params.id)),
  );

  app.post(
    '/:id/drain',
    {
      config: {
        ...operator,
        answerAgain: async (_request, _reply, id) => {
          const { tenants, standbyDatabases } = await answer(await existing(id));
          return { tenants, standbyDatabases };
        },
      },
      schema: {
        ...schema,
        operationId: 'drainCluster',
        summary: 'Place no new tenants on a cluster, and drop its standby databases',
        params: idParams,
        response: { 200: ClusterAnswer.pick({ tenants: true, standbyDatabases: true }).meta({ id: 'DrainedCluster' }) },
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
        operationId: 'deleteCluster',
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

  async function existing(id: string): Promise<ClusterRecord & Versioned> {
    const cluster = await findCluster(app.engine.registry, id);
    if (!cluster) throw new AppError('not-found');
    return cluster;
  }

  async function sendMade(
    reply: FastifyReply,
    cluster: ClusterRecord,
    found: readonly string[],
  ): Promise<FastifyReply> {
    const made = { ...(await answer(cluster)), warnings: [...found] };
    return reply.code(201).header('location', `${app.prefix}/${cluster.id}`).send(made);
  }

  async function answer(cluster: ClusterRecord): Promise<z.output<typeof ClusterAnswer> & Versioned> {
    const [made] = await answers([cluster]);
    if (!made) throw new Error('one answer for one cluster');
    return versioned(made, cluster);
  }

  function answers(clusters: readonly ClusterRecord[]): Promise<z.output<typeof ClusterAnswer>[]> {
    return showClusters(app.engine.registry, registration, clusters);
  }
}

// For operators: work of more than one step, as it goes on. An unfinished operation is tried again at once, or abandoned.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { findOperation } from '../../db/registry/operations/operation-rows.js';
import { listOperations } from '../../db/registry/operations/operation-lists.js';
import { AppError } from '../../src/errors.js';
import { versioned } from '../../src/http/row-versions.js';
import { showOperation } from '../../src/operations/runner/operation-shown.js';
import { idParams } from '../shapes/fields.js';
import { pageOf, readPage } from '../shapes/lists.js';
import { OperationAnswer, OperationsQuery } from '../shapes/operation-shapes.js';

export async function operationRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const operator = { access: { scope: 'operator' } } as const;
  const schema = { tags: ['operations'] };
  app.describeTag('operations', 'Work of more than one step, such as creating a tenant.');

  app.get(
    '/',
    {
      config: { ...operator, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        operationId: 'listOperations',
        summary: 'List operations: work of more than one step, also the ended work of the last 30 days',
        querystring: OperationsQuery,
        response: { 200: pageOf(OperationAnswer) },
      },
    },
    async (request) => {
      const page = await readPage(
        app.engine.cursors,
        ['operators', 'operations'],
        request.query,
        ({ tenant: tenantId, cluster: clusterId, ...query }) =>
          listOperations(app.engine.registry, { ...query, tenantId, clusterId }),
      );
      return { ...page, data: page.data.map(showOperation) };
    },
  );

  app.get(
    '/:id',
    {
      config: operator,
      schema: {
        ...schema,
        operationId: 'getOperation',
        summary: 'Read an operation: how far it is, and what an operator can do',
        params: idParams,
        response: { 200: OperationAnswer },
      },
    },
    async (request) => {
      const operation = await findOperation(app.engine.registry, request.params.id);
      if (!operation) throw new AppError('not-found');
      return versioned(showOperation(operation), operation);
    },
  );

  const acts = {
    retry: 'Try an unfinished operation again at once, also one that waits for a person',
    abandon: 'End an unfinished operation without its remaining steps. This deletes no database',
  } as const;
  const answerAgain = async (_request: unknown, _reply: unknown, id: string): Promise<unknown> => {
    const operation = await findOperation(app.engine.registry, id);
    if (!operation) throw new AppError('not-found');
    return showOperation(operation);
  };
  for (const act of ['retry', 'abandon'] as const)
    app.post(
      `/:id/${act}`,
      {
        config: { ...operator, errors: ['operation-state'], answerAgain },
        schema: {
          ...schema,
          operationId: `${act}Operation`,
          summary: acts[act],
          params: idParams,
          response: { 200: OperationAnswer },
        },
      },
      async (request) => showOperation(await app.engine.steering[act](request.params.id, request.auditOrigin)),
    );
}

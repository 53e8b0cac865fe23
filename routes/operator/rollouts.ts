// For operators: rollouts bring the databases of all tenants to this build's schema, in waves.
import type { FastifyInstance, FastifyReply } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { AppError } from '../../src/errors.js';
import { versioned } from '../../src/http/row-versions.js';
import { showItem, showRollout, showWithProgress } from '../../src/rollouts/rollout-shown.js';
import { idParams } from '../shapes/fields.js';
import { pageOf, readPage } from '../shapes/lists.js';
import {
  ItemAnswer,
  ItemsQuery,
  ResumeQuery,
  RolloutAnswer,
  RolloutsQuery,
  RolloutWithProgress,
  StartRolloutBody,
  wishOf,
} from '../shapes/rollout-shapes.js';

export async function rolloutRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const operator = { access: { scope: 'operator' } } as const;
  const schema = { tags: ['rollouts'] };
  app.describeTag('rollouts', 'Schema changes over the databases of all tenants.');

  app.get(
    '/',
    {
      config: { ...operator, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        operationId: 'listRollouts',
        summary: 'List rollouts',
        querystring: RolloutsQuery,
        response: { 200: pageOf(RolloutAnswer) },
      },
    },
    async (request) => {
      const page = await readPage(app.engine.cursors, ['operators', 'rollouts'], request.query, (query) =>
        app.engine.rollouts.list(query),
      );
      return { ...page, data: page.data.map(showRollout) };
    },
  );

  app.post(
    '/',
    {
      config: {
        ...operator,
        errors: ['rollout-under-way', 'nothing-behind'],
        answerAgain: async (_request, reply, id) => made(reply, id),
      },
      schema: {
        ...schema,
        operationId: 'startRollout',
        summary:
          "Start a rollout of the answering replica's schema to the tenants that are behind. One at a time is under way",
        body: StartRolloutBody,
        response: { 201: RolloutWithProgress },
      },
    },
    async (request, reply) => {
      const { id } = await app.engine.rollouts.start(wishOf(request.body), request.auditOrigin);
      return made(reply, id);
    },
  );

  app.get(
    '/:id',
    {
      config: operator,
      schema: {
        ...schema,
        operationId: 'getRollout',
        summary: 'Read a rollout and how far it is: tenants by state, in all, by wave and by cluster',
        params: idParams,
        response: { 200: RolloutWithProgress },
      },
    },
    async (request) => {
      const rollout = await existing(request.params.id);
      return versioned(showWithProgress(rollout), rollout);
    },
  );

  app.get(
    '/:id/items',
    {
      config: { ...operator, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        operationId: 'listRolloutItems',
        summary: 'List the tenants of a rollout by wave, with the error of each that failed',
        params: idParams,
        querystring: ItemsQuery,
        response: { 200: pageOf(ItemAnswer) },
      },
    },
    async (request) => {
      const { id: rolloutId } = request.params;
      await existing(rolloutId);
      const query = { ...request.query, sort: { name: 'wave', direction: 'asc' } } as const;
      const page = await readPage(
        app.engine.cursors,
        ['operators', `items of ${rolloutId}`],
        query,
        async ({ state, after, limit }) => {
          const items = await app.engine.rollouts.items({ rolloutId, state, after, limit });
          return items.map((item) => ({ ...item, id: item.tenantId }));
        },
      );
      return { ...page, data: page.data.map(showItem) };
    },
  );

  const acts = {
    pause: 'Pause a rollout: no further tenant begins',
    retry: 'Try the failed tenants of a rollout again, and go on with it',
    abort: 'End a rollout. Tenants that have not begun are skipped, and nothing is undone',
  } as const;
  const answerAgain = async (_request: unknown, _reply: unknown, id: string): Promise<unknown> =>
    showWithProgress(await existing(id));
  for (const act of ['pause', 'retry', 'abort'] as const)
    app.post(
      `/:id/${act}`,
      {
        config: {
          ...operator,
          errors: act === 'retry' ? ['rollout-state', 'rollout-under-way'] : ['rollout-state'],
          answerAgain,
        },
        schema: {
          ...schema,
          operationId: `${act}Rollout`,
          summary: acts[act],
          params: idParams,
          response: { 200: RolloutWithProgress },
        },
      },
      async (request) => {
        await app.engine.rollouts[act](request.params.id, request.auditOrigin);
        return showWithProgress(await existing(request.params.id));
      },
    );

  app.post(
    '/:id/resume',
    {
      config: { ...operator, errors: ['rollout-state'], answerAgain },
      schema: {
        ...schema,
        operationId: 'resumeRollout',
        summary: 'Go on with a rollout that is paused or stopped',
        params: idParams,
        querystring: ResumeQuery,
        response: { 200: RolloutWithProgress },
      },
    },
    async (request) => {
      await app.engine.rollouts.resume(request.params.id, request.auditOrigin, request.query);
      return showWithProgress(await existing(request.params.id));
    },
  );

  type Found = NonNullable<Awaited<ReturnType<typeof app.engine.rollouts.find>>>;

  async function existing(id: string): Promise<Found> {
    const rollout = await app.engine.rollouts.find(id);
    if (!rollout) throw new AppError('not-found');
    return rollout;
  }

  async function made(reply: FastifyReply, id: string): Promise<FastifyReply> {
    const rollout = await existing(id);
    return reply
      .code(201)
      .header('location', `${app.prefix}/${id}`)
      .send(versioned(showWithProgress(rollout), rollout));
  }
}

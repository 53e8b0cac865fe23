// Idempotency-Key on acts of operators, and on changes of a tenant's row by its users: what is requested twice with one key
// happens once, and is answered the same. Every such route honours it; one whose answer has a body declares `answerAgain`.
//
// The act records the request in its own transaction of the registry. The answer is stored after it was serialized and before it
// is sent (src/operations/keyed-acts.ts). By then the act is effective on every replica, so a stored answer is just sent again.
import type { FastifyReply, FastifyRequest, RouteHandlerMethod, RouteOptions } from 'fastify';
import fp from 'fastify-plugin';
import type { Principal } from '../../src/auth/tokens.js';
import { idempotencyKeyOf } from '../../src/http/idempotency-key.js';
import { keyedIn } from '../../src/http/keyed-routes.js';
import { answerOf, REPLAYED, sendAgain } from '../../src/http/sent-answers.js';
import type { KeyedAct } from '../../src/operations/keyed-acts.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** The act of a request with an Idempotency-Key; its claim is a part of `auditOrigin`. */
    keyedAct: KeyedAct | null;
  }
}

export const idempotentActs = fp(
  async (app) => {
    const { keyedActs: acts, requestHash } = app.engine;
    app.decorateRequest('keyedAct', null);

    /** Answers the request from its stored answer, or lets the handler run under the lock of the key. */
    function withKey(handler: RouteHandlerMethod, { answerAgain = noContent }: RouteOptions['config'] = {}) {
      const keyed: RouteHandlerMethod = async function (request, reply) {
        const key = idempotencyKeyOf(request.headers['idempotency-key']);
        const { principal } = request;
        if (key === undefined || !principal) return handler.call(this, request, reply);
        const { method, params, body, query } = request;
        const named = { caller: callerOf(principal), method, route: request.routeOptions.url ?? '', params, key };
        const content = { body: body ?? null, query };
        const begun = await acts.begin(
          named,
          { hash: requestHash.of(content), matches: (stored) => requestHash.matches(content, stored) },
          principal.kind === 'user' ? principal.tenantId : undefined,
        );
        if ('answer' in begun) return sendAgain(reply, begun.answer);
        request.keyedAct = begun;
        try {
          const { committed } = begun;
          if (!committed) return await handler.call(this, request, reply);
          await committed.effective();
          reply.header(REPLAYED, 'true');
          return await answerAgain(request, reply, committed.targetId);
        } catch (error) {
          reply.removeHeader(REPLAYED);
          await giveUp(request);
          throw error;
        }
      };
      return keyed;
    }

    async function store(request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> {
      const act = request.keyedAct;
      if (!act) return payload;
      request.keyedAct = null;
      try {
        if (reply.statusCode < 300) await act.store(answerOf(reply, payload));
      } catch (err) {
        // The act is committed, and the answer can be made again.
        request.log.warn({ err }, 'could not store the answer to a request with an Idempotency-Key');
      }
      await act.release();
      return payload;
    }

    app.addHook('onRoute', (route: RouteOptions) => {
      if (keyedIn(route) !== 'registry') return;
      route.handler = withKey(route.handler, route.config);
      route.onSend = [store, ...[route.onSend ?? []].flat()];
      // If the client has left, perhaps no answer was made.
      route.onResponse = [giveUp, ...[route.onResponse ?? []].flat()];
    });
  },
  { name: 'idempotent-acts', fastify: '5.x', dependencies: ['engine', 'authentication', 'admission'] },
);

function callerOf(principal: Principal): string {
  return principal.kind === 'user'
    ? `user ${principal.tenantId} ${principal.userId}`
    : `operator ${principal.operatorId}`;
}

async function noContent(_request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  return reply.code(204).send(null);
}

async function giveUp(request: FastifyRequest): Promise<void> {
  const act = request.keyedAct;
  request.keyedAct = null;
  await act?.release();
}

// Idempotency-Key on the writes of tenants' users: a write that is sent twice with one key happens once, and is answered the same.
// Every route of the scope `tenant` that changes something honours it, without a line of its own.
//
// The answer is stored in the transaction of the write (src/tenants/keyed-write.ts), after it was serialized and before it is sent.
import type { FastifyReply, FastifyRequest, RouteHandlerMethod, RouteOptions } from 'fastify';
import fp from 'fastify-plugin';
import type { StoredAnswer } from '../../db/tenant/idempotency-queries.js';
import { idempotencyKeyOf } from '../../src/http/idempotency-key.js';
import { keyedIn } from '../../src/http/keyed-routes.js';
import { answerOf, removeKeptHeaders, restoreAnswer } from '../../src/http/sent-answers.js';
import type { Change } from '../../src/replicas/events.js';
import {
  AlreadyAnswered,
  beginKeyedWrite,
  findEarlierAnswer,
  type ContentHash,
} from '../../src/tenants/keyed-write.js';

declare module 'fastify' {
  interface FastifyRequest {
    /**
     * Does something once the write is committed: at once, unless the request has an Idempotency-Key. It is not done again for a
     * repeated answer.
     */
    committed(work: () => void | Promise<void>): Promise<void>;
    /** Tells other replicas of the write, once it is committed, and again with each repeated answer. */
    announce(announcement: Announcement): Promise<void>;
  }
}

/** Something that other replicas must know before the write is acknowledged. */
export type Announcement =
  | { readonly kind: 'change'; readonly change: Change }
  | { readonly kind: 'sessions-ended'; readonly tenantId: string; readonly sessionIds: readonly string[] };

export const idempotency = fp(
  async (app) => {
    const { tenantPools, requestHash, events, sessions } = app.engine;
    app.decorateRequest('committed', async function (this: FastifyRequest, work) {
      if (this.keyedWrite) this.keyedWrite.afterCommit.push(work);
      else await work();
    });
    app.decorateRequest('announce', async function (this: FastifyRequest, announcement) {
      this.keyedWrite?.announced.push(announcement);
      await this.committed(() => tell(announcement));
    });

    async function tell(announcement: Announcement): Promise<void> {
      if (announcement.kind === 'change') return events.publish(announcement.change);
      const { tenantId, sessionIds } = announcement;
      return sessions.ended({ kind: 'user', tenantId }, sessionIds);
    }

    /** Makes the answer the stored one, except for its body, which is returned. */
    async function restore(reply: FastifyReply, answer: StoredAnswer): Promise<string | undefined> {
      for (const announcement of answer.announcements) await tell(announcement as Announcement);
      return restoreAnswer(reply, answer);
    }

    async function replay(reply: FastifyReply, answer: StoredAnswer): Promise<FastifyReply> {
      const body = await restore(reply, answer);
      return reply.serializer((text: string) => text).send(body);
    }

    /** Answers the request from its stored answer, or lets the handler run in one transaction. */
    function withKey(handler: RouteHandlerMethod): RouteHandlerMethod {
      return async function (request, reply) {
        const key = idempotencyKeyOf(request.headers['idempotency-key']);
        if (key === undefined) return handler.call(this, request, reply);
        const content = contentOf(request);
        const { userId: caller, method, params } = request;
        const keyed = { caller, method, route: request.routeOptions.url ?? '', params, key };
        const known = await findEarlierAnswer(request.tenantDb, keyed, content);
        if (known) return replay(reply, known);
        request.keyedWrite = beginKeyedWrite(
          (began) => tenantPools.transaction(request.tenantId, app.watchOf(request), began),
          keyed,
          content,
        );
        try {
          return await handler.call(this, request, reply);
        } catch (error) {
          await giveUp(request);
          if (error instanceof AlreadyAnswered) return replay(reply, error.answer);
          throw error;
        }
      };
    }

    function contentOf({ body, query }: FastifyRequest): ContentHash {
      const content = { body: body ?? null, query };
      return { hash: requestHash.of(content), matches: (stored) => requestHash.matches(content, stored) };
    }

    /** Commits the write together with its answer, before the answer is sent. */
    async function commit(request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> {
      const write = request.keyedWrite;
      if (!write) return payload;
      request.keyedWrite = null;
      if (reply.statusCode >= 300) {
        await write.rollback();
        return payload;
      }
      try {
        await write.commit(answerOf(reply, payload));
      } catch (error) {
        removeKeptHeaders(reply);
        // The handler made no query, so that the key was looked at only now.
        if (error instanceof AlreadyAnswered) return restore(reply, error.answer);
        throw error;
      }
      return payload;
    }

    app.addHook('onRoute', (route: RouteOptions) => {
      if (keyedIn(route) !== 'tenant') return;
      route.handler = withKey(route.handler);
      route.onSend = [commit, ...[route.onSend ?? []].flat()];
      // If the client has left, perhaps no answer was made.
      route.onResponse = [giveUp, ...[route.onResponse ?? []].flat()];
    });
  },
  { name: 'idempotency', fastify: '5.x', dependencies: ['engine', 'tenant-pool', 'admission'] },
);

async function giveUp(request: FastifyRequest): Promise<void> {
  const write = request.keyedWrite;
  request.keyedWrite = null;
  await write?.rollback();
}

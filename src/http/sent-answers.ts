// What is stored of an answer for repeated requests, and how it is sent again.
import type { FastifyReply } from 'fastify';
import type { SentAnswer } from '../../db/registry/request-answers.js';

/** The header of every answer to a repeated request. */
export const REPLAYED = 'idempotent-replayed';

/** Headers that are stored with an answer. */
const KEPT_HEADERS = ['location', 'etag', 'cache-control'] as const;

/** @param payload the serialized answer, in an onSend hook */
export function answerOf(reply: FastifyReply, payload: unknown): SentAnswer {
  const headers = KEPT_HEADERS.flatMap((name) => {
    const value = reply.getHeader(name);
    return value === undefined ? [] : [[name, String(value)] as const];
  });
  return {
    status: reply.statusCode,
    headers: Object.fromEntries(headers),
    body: typeof payload === 'string' ? payload : '',
  };
}

/** Removes the headers that describe a change, if the change is perhaps not there. */
export function removeKeptHeaders(reply: FastifyReply): void {
  for (const name of KEPT_HEADERS) reply.removeHeader(name);
}

/** Makes the answer the stored one, except for its body, which is returned. */
export function restoreAnswer(reply: FastifyReply, { status, headers, body }: SentAnswer): string | undefined {
  reply.code(status).headers(headers).header(REPLAYED, 'true');
  if (body === '') return undefined;
  reply.type('application/json; charset=utf-8');
  return body;
}

export function sendAgain(reply: FastifyReply, answer: SentAnswer): FastifyReply {
  const body = restoreAnswer(reply, answer);
  return reply.serializer((text: string) => text).send(body);
}

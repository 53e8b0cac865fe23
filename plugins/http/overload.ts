// Refuses requests while the event loop is overloaded: 503 `overloaded` with Retry-After, before anything else is done for the request.
// A refusal must cost much less than an answer, or refusing would use up what is to be served. So it is written below Fastify, from
// parts that are made once. While there is no overload, a request costs nothing here.
import type { FastifyInstance } from 'fastify';
import type { IncomingMessage, ServerResponse } from 'node:http';
import fp from 'fastify-plugin';
import { AppError } from '../../src/errors.js';
import { watchTurns } from '../../src/lib/loop-turns.js';
import { Overload } from '../../src/http/overload-state.js';
import { generateRequestId } from '../../src/http/request-ids.js';
import { toProblem } from '../../src/http/problem.js';
import { traceIdOf } from '../../src/http/trace-context.js';

type Listener = (request: IncomingMessage, response: ServerResponse) => void;

/** Clients come back at different times (s). */
const RETRY_AFTER = ['1', '2', '3'];

/** What is always answered. A preflight is no work, and without its answer a browser hides the refusal from the page. */
const isExempt = ({ method, url = '' }: IncomingMessage): boolean => url.startsWith('/health/') || method === 'OPTIONS';

/** Register it before the plugins that listen for requests: until then only Fastify does. */
export const overload = fp<{ limit: number }>(
  async (app, { limit }) => {
    if (limit === 0) return;
    const { server, log } = app;
    const { traffic } = app.engine;
    const [serve] = server.listeners('request') as Listener[];
    if (!serve) throw new Error('Fastify does not listen for requests');
    let refuse: Listener = serve;
    // The headers of every answer are known by then.
    app.addHook('onReady', async () => {
      refuse = refusalOf(app);
    });
    const serveAll = (): void => {
      traffic.overloaded = false;
      server.off('request', serveOrRefuse).off('request', serve).on('request', serve);
    };
    const watched = new Overload(limit, {
      begun(turn) {
        traffic.overloaded = true;
        server.off('request', serve).on('request', serveOrRefuse);
        log.warn({ turn: Math.round(turn), limit }, 'the event loop is overloaded: requests are refused');
      },
      ended({ refused, duration }) {
        serveAll();
        log.info({ refused, duration: Math.round(duration) }, 'the event loop is no longer overloaded');
      },
    });
    const turns = watchTurns((worked) => {
      watched.turnEnded(worked);
    });
    const serveOrRefuse: Listener = (request, response) => {
      const answer = !isExempt(request) && watched.refuses(turns.worked()) ? refuse : serve;
      answer.call(server, request, response);
    };
    app.addHook('onClose', async () => {
      turns.stop();
      // Without the watch, the present turn would seem to last for ever, and open connections would get refusals only.
      serveAll();
    });
  },
  { name: 'overload', fastify: '5.x', dependencies: ['engine', 'request-metrics'] },
);

/** How to refuse, as fast as it can be done: headers as a flat list, and the body around the request's id. */
function refusalOf(app: FastifyInstance): Listener {
  const error = new AppError('overloaded', { retryAfter: 1 });
  const { status, headers, body } = toProblem(error, '');
  const { 'retry-after': _, ...others } = { ...app.securityHeaders, ...headers };
  const constant = Object.entries(others).flat();
  const beforeId = JSON.stringify(body).slice(0, -'"}'.length);
  if (!beforeId.endsWith('"requestId":"')) throw new Error('the id of the request is the last part of a problem');
  const answer: Listener = (request, response) => {
    const requestId = generateRequestId(request);
    const traceId = traceIdOf(request);
    // Both ids are of letters, digits, `-` and `_`.
    const text = `${beforeId}${requestId}"${traceId === undefined ? '' : `,"traceId":"${traceId}"`}}`;
    response
      .writeHead(status, [
        ...constant,
        ...Object.entries(app.corsHeaders(request)).flat(),
        'retry-after',
        RETRY_AFTER[Math.floor(Math.random() * RETRY_AFTER.length)] ?? '1',
        'x-request-id',
        requestId,
        'content-length',
        String(text.length),
      ])
      .end(text);
    app.countRefused(request.method, status);
    app.countError(error, error.code, status);
  };
  // Together at the end of the turn: otherwise each answer could wake its reader, which costs more than all the rest.
  let refused: (readonly [IncomingMessage, ServerResponse])[] = [];
  const answerAll = (): void => {
    const all = refused;
    refused = [];
    for (const [request, response] of all) answer(request, response);
  };
  return (request, response) => {
    if (refused.push([request, response]) === 1) setImmediate(answerAll);
  };
}

// One request over node:http, for the generators that decide themselves when to send. autocannon sends the next request only after
// the last answer.
import { request as httpRequest, type Agent } from 'node:http';
import type { AnswerCounts, LoadRequest } from './messages.js';

export interface Answer {
  readonly status: number;
  readonly retryAfter: boolean;
}

/** Maximum wait (ms) for an answer. */
const DEADLINE = 20_000;

/** @throws Error if there is no answer within 20 s, and when `signal` aborts */
export function ask(agent: Agent, url: URL, request: LoadRequest, signal?: AbortSignal): Promise<Answer> {
  const { method, path, headers, body } = request;
  return new Promise((resolve, reject) => {
    const sent = httpRequest(
      {
        agent,
        host: url.hostname,
        port: url.port,
        method,
        path,
        headers,
        timeout: DEADLINE,
        ...(signal && { signal }),
      },
      (response) => {
        const { statusCode: status = 0, headers: answered } = response;
        response.on('end', () => {
          resolve({ status, retryAfter: answered['retry-after'] !== undefined });
        });
        response.on('error', reject);
        response.resume();
      },
    );
    sent.on('timeout', () => sent.destroy(new Error(`no answer within ${DEADLINE / 1_000} s`)));
    sent.on('error', reject);
    sent.end(body);
  });
}

type AnswerKind = 'served' | 'refused' | 'other';

/** Counts answers by what they mean to the client. */
export class AnswerCounter {
  #served = 0;
  #refused = 0;
  #other = 0;

  #firstOther: string | undefined;

  /** Counts an answer, or the error that came instead. Returns its kind. */
  count(answer: Answer | Error): AnswerKind {
    if (answer instanceof Error) return this.#countOther(answer.message);
    if (answer.status >= 200 && answer.status < 300) {
      this.#served += 1;
      return 'served';
    }
    if (answer.status === 503 && answer.retryAfter) {
      this.#refused += 1;
      return 'refused';
    }
    return this.#countOther(`status ${answer.status}`);
  }

  counts(): AnswerCounts {
    return { served: this.#served, refused: this.#refused, other: this.#other, firstOther: this.#firstOther };
  }

  #countOther(what: string): AnswerKind {
    this.#other += 1;
    this.#firstOther ??= what;
    return 'other';
  }
}

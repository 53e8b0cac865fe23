// The connections of the open-loop generator.
import { Client } from 'undici';
import type { Answer } from './ask.js';
import type { LoadRequest } from './messages.js';

/** Maximum wait (ms) for an answer. */
const DEADLINE = 20_000;

/** Connections that are opened at once. */
const OPENED_AT_ONCE = 20;

/** What is asked to open a connection. */
const HEALTH: LoadRequest = { method: 'GET', path: '/health/live', headers: {} };

export class Connections {
  /** Those without a request: the one that was used last is used next. */
  readonly #free: Client[] = [];
  readonly #all: Client[] = [];
  readonly #waiting: (() => void)[] = [];

  /** @param most connections; a request waits for a free one. Undefined: one more is opened instead */
  constructor(
    private readonly url: string,
    private readonly most: number | undefined,
  ) {}

  /** Opens all, if their number is fixed. @throws Error if the server does not answer */
  async open(): Promise<void> {
    const clients = Array.from({ length: this.most ?? 0 }, () => this.#make());
    const openNext = async (): Promise<void> => {
      for (let client = clients.pop(); client; client = clients.pop()) {
        const answer = await new Promise<Answer | Error>((settle) => {
          ask(client, HEALTH, settle);
        });
        this.#free.push(client);
        if (answer instanceof Error) throw answer;
      }
    };
    await Promise.all(Array.from({ length: OPENED_AT_ONCE }, openNext));
  }

  /** Sends on a free connection, as soon as there is one. */
  send(request: LoadRequest, settle: (answer: Answer | Error) => void): void {
    const client = this.#free.pop() ?? (this.most === undefined ? this.#make() : undefined);
    if (!client) {
      this.#waiting.push(() => {
        this.send(request, settle);
      });
      return;
    }
    ask(client, request, (answer) => {
      this.#free.push(client);
      settle(answer);
      this.#waiting.shift()?.();
    });
  }

  /** Forgets the requests that wait for a connection. Returns their number. */
  forgetWaiting(): number {
    return this.#waiting.splice(0).length;
  }

  close(): void {
    for (const client of this.#all) void client.destroy();
  }

  #make(): Client {
    const client = new Client(this.url, { headersTimeout: DEADLINE, bodyTimeout: DEADLINE });
    this.#all.push(client);
    return client;
  }
}

/**
 * One request, by the cheapest way that undici has: the generator must be able to send several times what the service can answer.
 */
function ask(
  client: Client,
  { method, path, headers, body }: LoadRequest,
  settle: (answer: Answer | Error) => void,
): void {
  let answer: Answer = { status: 0, retryAfter: false };
  client.dispatch(
    { method, path, headers, body: body ?? null },
    {
      // Without it, undici takes the handler for one of its former kind.
      onRequestStart: () => undefined,
      onResponseStart: (_, status, answered) => {
        answer = { status, retryAfter: answered['retry-after'] !== undefined };
      },
      onResponseData: () => undefined,
      onResponseEnd: () => {
        settle(answer);
      },
      onResponseError: (_, error) => {
        settle(error);
      },
    },
  );
}

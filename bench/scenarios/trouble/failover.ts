// The server fails over to its standby under load: the time from the promotion until the first acknowledged write, through a proxy
// and by a name that moves.
import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { medians } from '../../figures/statistics.js';
import { ask, AnswerCounter } from '../../programs/ask.js';
import type { AnswerCounts } from '../../programs/messages.js';
import { WAYS, type FailoverSubject, type Way } from '../../stage/failover.js';
import { eachRound, mediansOf, wholeNumber, type Scenario } from '../scenario.js';

/** Writes a second, of each way. */
const RATE = 50;

/** Milliseconds of load before the primary is stopped, and after the promotion. */
const BEFORE = 1_000;
const AFTER = 3_000;

/** Maximum milliseconds from the promotion until writes work again. */
const PROMISED = 1_000;

interface Gap {
  /** From the promotion until the first write is acknowledged that began without the former primary, in ms. */
  readonly gap: number;
  /** From the end of the former primary until that moment, in ms. */
  readonly outage: number;
  readonly served: number;
  readonly refused: number;
  readonly other: number;
}

type FailoverRound = Readonly<Record<Way, Gap>> & { readonly firstOther: string | undefined };

export const failover: Scenario<'failover'> = {
  name: 'failover',
  what: 'writes while the server fails over to its standby, behind a proxy and by name',
  rounds: 3,

  async run(bench) {
    const stage = await bench.stages.failover();
    const rounds = await eachRound<FailoverRound>(bench, this.name, async (_, tell) => {
      const writers = stage.subjects.map(startWriter);
      tell('all well');
      await sleep(BEFORE);
      tell('fails over');
      const { gone, promoted } = await stage.switchOver();
      await sleep(AFTER);
      const found = await Promise.all(writers.map((writer) => writer.stop(gone, promoted)));
      const gapOf = (way: Way): Gap => {
        const own = found.find((each) => each.way === way);
        if (!own) throw new Error(`nothing was written by ${way}`);
        return own.gap;
      };
      const firstOther = found.map((each) => each.counts.firstOther).find((what) => what !== undefined);
      return { proxy: gapOf('proxy'), name: gapOf('name'), firstOther };
    });
    const middle = {
      proxy: medians(rounds.map(({ proxy }) => proxy)),
      name: medians(rounds.map(({ name }) => name)),
    };
    const longest = (way: Way): number => Math.max(...rounds.map((round) => round[way].gap));
    return {
      name: this.name,
      what: this.what,
      rounds,
      median: middle,
      table: {
        caption: `${mediansOf(bench)}; ${RATE} writes a second each; the former primary is a standby before the other one is promoted`,
        headings: [
          'scenario',
          'reached by',
          'gap ms',
          'longest gap ms',
          'without the primary ms',
          'answers: 2xx',
          '503',
          'other 5xx or none',
        ],
        rows: WAYS.map((way, index) => [
          index === 0 ? 'failover' : '',
          way,
          wholeNumber(middle[way].gap),
          wholeNumber(longest(way)),
          wholeNumber(middle[way].outage),
          wholeNumber(middle[way].served),
          wholeNumber(middle[way].refused),
          wholeNumber(middle[way].other),
        ]),
      },
      warnings: rounds.flatMap(({ firstOther }) =>
        firstOther === undefined ? [] : [`failover: the first of the other answers was: ${firstOther}.`],
      ),
      failures: WAYS.filter((way) => longest(way) > PROMISED).map(
        (way) => `failover: writes by ${way} worked again only ${wholeNumber(longest(way))} ms after the promotion.`,
      ),
    };
  },
};

interface Writer {
  /**
   * @param gone when the former primary was stopped
   * @param promoted when the other server took writes
   */
  stop(gone: number, promoted: number): Promise<{ way: Way; gap: Gap; counts: AnswerCounts }>;
}

/** Sends writes at a constant rate, whether or not earlier ones are answered. */
function startWriter({ way, service, tenant }: FailoverSubject): Writer {
  const agent = new Agent({ keepAlive: true });
  const counter = new AnswerCounter();
  const acknowledged: { readonly begun: number; readonly ended: number }[] = [];
  const underWay = new Set<Promise<void>>();
  const request = {
    method: 'POST' as const,
    path: '/products',
    headers: { authorization: `Bearer ${tenant.users[0]?.token ?? ''}`, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'Written', price: '1.00', stockQuantity: 1 }),
  };

  async function write(): Promise<void> {
    const begun = performance.now();
    const answer = await ask(agent, new URL(service.url), request).catch((error: unknown) => error as Error);
    if (counter.count(answer) === 'served') acknowledged.push({ begun, ended: performance.now() });
  }

  const timer = setInterval(() => {
    const writing = write().finally(() => underWay.delete(writing));
    underWay.add(writing);
  }, 1_000 / RATE);

  return {
    async stop(gone, promoted) {
      clearInterval(timer);
      await Promise.all(underWay);
      agent.destroy();
      // The answer to a write that the former primary committed may come after its end.
      const ends = acknowledged
        .filter(({ begun, ended }) => begun > gone || ended > promoted)
        .map(({ ended }) => ended);
      const first = Math.min(...ends);
      const counts = counter.counts();
      const { served, refused, other } = counts;
      const gap = { gap: Math.max(0, first - promoted), outage: first - gone, served, refused, other };
      return { way, gap, counts };
    },
  };
}

// More requests than the service can answer: how many it still answers. The service has one core, and the generator has the other one
// together with PostgreSQL.
import { sql } from 'kysely';
import { pick, seededRandom } from '../../figures/random.js';
import { median, medians } from '../../figures/statistics.js';
import { separate } from '../../measuring/cores.js';
import { drive } from '../../measuring/drive.js';
import { measure } from '../../measuring/measure.js';
import type { LoadRequest, OpenLoadJob } from '../../programs/messages.js';
import type { Fleet } from '../../stage/fleet.js';
import type { Service } from '../../stage/installation.js';
import type { SeededTenant } from '../../stage/seed.js';
import { headersOf, otherWarnings, readOf } from './neighbours.js';
import { eachRound, mediansOf, ratioWithRounds, wholeNumber, type Scenario } from '../scenario.js';

const TENANTS = 10;

/** Different requests, sent repeatedly. */
const REQUESTS = 10_000;

/** Products on a page. */
const PAGE = 100;

/** Sentences of a product's description: about 1,000 characters, as in a shop. */
const DESCRIPTION = 70;

/** Seconds until the refusals have begun and the connections of the generator are open. */
const WARMUP = 6;

/** Clients that wait for each answer, when the capacity is measured. */
const CLIENTS = 16;

/** Connections of the generator: as many as a balancer may have. */
const CONNECTIONS = 1_000;

/** What is offered, as a multiple of the capacity. */
const OFFERS = [1, 2, 3] as const;

/** The part of the best goodput that must be left at three times the capacity. */
const PROMISED = 0.9;

interface Offered {
  readonly goodput: number;
  readonly refused: number;
  readonly p99: number;
  readonly refusedP99: number;
}

interface OverloadRound {
  /** Requests a second, by clients that wait for each answer. */
  readonly capacity: number;
  readonly offers: readonly Offered[];
  /** The goodput at three times the capacity over the best one. */
  readonly ratio: number;
  readonly firstOther: string | undefined;
}

export const overload: Scenario<'overload'> = {
  name: 'overload',
  what: `one, two and three times the requests that the service can answer, on ${TENANTS} tenants`,
  rounds: 3,

  async run(bench) {
    const stage = await bench.stages.fleet();
    const tenants = await stage.tenants(TENANTS);
    await fill(stage, tenants);
    return stage.withService({}, async (service) => {
      const together = separate(service.pid, stage.cluster.postmaster);
      const rounds = await eachRound<OverloadRound>(bench, this.name, async (round, tell) => {
        const requests = mixture(tenants, round);
        tell('the capacity');
        const capacity = await capacityOf(stage, service, requests);
        const offers: Offered[] = [];
        let firstOther: string | undefined;
        for (const times of OFFERS) {
          tell(`${times} times the capacity`);
          const { seconds } = bench.flags;
          const job = { url: service.url, rate: capacity * times, warmup: WARMUP, seconds, requests };
          const result = await offer(stage, { ...job, successOnly: false, connections: CONNECTIONS });
          firstOther ??= result.firstOther;
          offers.push(result);
        }
        const best = Math.max(capacity, ...offers.map(({ goodput }) => goodput));
        return { capacity, offers, ratio: (offers.at(-1)?.goodput ?? 0) / best, firstOther };
      });
      together();
      const middle = {
        capacity: median(rounds.map(({ capacity }) => capacity)),
        ratio: median(rounds.map(({ ratio }) => ratio)),
        offers: OFFERS.map((_, index) => medians(rounds.flatMap(({ offers }) => offers[index] ?? []))),
      };
      return {
        name: this.name,
        what: this.what,
        rounds,
        median: middle,
        table: {
          caption: `${mediansOf(bench)}; clients that wait for each answer got ${wholeNumber(middle.capacity)} answers a second`,
          headings: [
            'offered',
            'successes/s',
            'refused in all',
            'p99 ms of successes',
            'of refusals',
            'of the best (rounds)',
          ],
          rows: middle.offers.map(({ goodput, refused, p99, refusedP99 }, index) => [
            `${OFFERS[index] ?? ''} ×`,
            wholeNumber(goodput),
            wholeNumber(refused),
            wholeNumber(p99),
            wholeNumber(refusedP99),
            index < OFFERS.length - 1
              ? ''
              : ratioWithRounds(
                  middle.ratio,
                  rounds.map(({ ratio }) => ratio),
                ),
          ]),
        },
        warnings: otherWarnings(this.name, rounds),
        failures:
          middle.ratio < PROMISED
            ? [`${this.name}: at three times the capacity ${middle.ratio.toFixed(2)} of the best goodput is left.`]
            : [],
      };
    });
  },
};

/** Gives each tenant a full page of products. */
async function fill({ cluster }: Fleet, tenants: readonly SeededTenant[]): Promise<void> {
  for (const { database } of tenants)
    await cluster.asSuperuser(
      (db) =>
        sql`insert into products (id, name, description, price)
            select gen_random_uuid(), 'Product ' || n, repeat('What it does. ', ${DESCRIPTION}::int), n
            from generate_series(1, ${PAGE}::int) n`.execute(db),
      database,
    );
}

/** Of eight requests four are pages of 100 products, three are one product, and one changes a product. */
function mixture(tenants: readonly SeededTenant[], seed: number): LoadRequest[] {
  const random = seededRandom(seed);
  return Array.from({ length: REQUESTS }, (_, index): LoadRequest => {
    const tenant = pick(tenants, random);
    if (index % 8 > 4) return readOf(tenant, random);
    const headers = headersOf(tenant, random);
    if (index % 8 > 0) return { method: 'GET', path: `/products?limit=${PAGE}`, headers };
    const body = JSON.stringify({ price: `${1 + (index % 90)}.50` });
    const path = `/products/${pick(tenant.productIds, random)}`;
    return { method: 'PATCH', path, headers: { ...headers, 'content-type': 'application/json' }, body };
  });
}

async function capacityOf(
  { flags, cluster, cleanup }: Fleet,
  { url, pid }: Service,
  requests: readonly LoadRequest[],
): Promise<number> {
  const { seconds } = flags;
  const job = { url, connections: CLIENTS, warmup: WARMUP, seconds, requests };
  const { requestsPerSecond } = await measure({ name: 'load', job, server: pid }, cluster.postmaster, cleanup);
  return requestsPerSecond;
}

async function offer({ cleanup }: Fleet, job: OpenLoadJob): Promise<Offered & { firstOther: string | undefined }> {
  const { goodput, refused, servedP99, refusedP99, firstOther } = await drive('open-load', job, { cleanup });
  return { goodput, refused, p99: servedP99, refusedP99, firstOther };
}

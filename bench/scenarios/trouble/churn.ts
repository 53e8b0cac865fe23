// Cold tenants that open and lose connections all the time: how much that slows the slowest answers of a tenant that is in use.
import { pick, seededRandom } from '../../figures/random.js';
import { median, medians } from '../../figures/statistics.js';
import { watchConnections } from '../../measuring/connections.js';
import { startDrive } from '../../measuring/drive.js';
import type { OpenLoadJob } from '../../programs/messages.js';
import {
  halfOfCapacity,
  latenciesOf,
  latenessWarnings,
  neighbours,
  reads,
  runOpenLoad,
  type Latencies,
} from './neighbours.js';
import { eachRound, ratioWithRounds, timedMediansOf, wholeNumber, type Scenario } from '../scenario.js';

const COLD = 100;

/** Connections for all tenants: far fewer than cold tenants, so that almost each of their requests opens one and closes another. */
const CONNECTIONS = 20;

/** Requests a second to the cold tenants, all together. */
const COLD_RATE = 20;

/**
 * Connections of the generator to the service, as a balancer has them. Without a bound, a generator that starts late sends more
 * requests to the one tenant at once than may wait there.
 */
const CLIENTS = 200;

/**
 * The share of half of the capacity that the tenant in use gets. On two cores, a generator of independent requests at half of the
 * capacity leaves no room for the processes of the cold tenants.
 */
const SHARE_OF_HALF = 0.5;

/** What is promised: the p99 beside the churn over the p99 at rest. */
const PROMISED = 1.5;

interface ChurnRound {
  readonly rest: Latencies;
  readonly churned: Latencies;
  readonly ratio: number;
  /** Requests of the tenant in use that were refused, of those beside the churn. */
  readonly refused: number;
  /** Connections to tenants that were opened a second. */
  readonly opened: number;
}

export const churn: Scenario<'churn'> = {
  name: 'churn',
  what: `one tenant at a quarter of the capacity while ${COLD} cold tenants open connections, of which there are ${CONNECTIONS}`,
  rounds: 5,

  async run(bench) {
    const stage = await bench.stages.fleet();
    const [hot, ...cold] = await stage.tenants(COLD + 1);
    if (!hot) throw new Error('there is no tenant in use');
    return stage.withService({ CLUSTER_CONNECTION_BUDGET: String(CONNECTIONS) }, async (service) => {
      const rate = (await halfOfCapacity(stage, service, [hot])) * SHARE_OF_HALF;
      const rounds = await eachRound<ChurnRound>(bench, this.name, async (round, tell) => {
        const job = { ...neighbours(stage, service, [hot], rate, round), connections: CLIENTS };
        tell('at rest');
        const rest = latenciesOf(await runOpenLoad(stage, job));
        tell('beside cold tenants');
        const { warmup, seconds } = bench.flags;
        const order = seededRandom(round);
        const others: OpenLoadJob = {
          url: service.url,
          rate: COLD_RATE,
          warmup,
          // A little longer than what is measured.
          seconds: seconds + warmup,
          requests: reads(COLD * 10, round, () => pick(cold, order)),
          successOnly: false,
        };
        const { result, counts } = await watchConnections(stage.cluster, async (edges) => {
          const beside = await startDrive('open-load', others, { cleanup: stage.cleanup });
          const measured = await startDrive(
            'open-load',
            { ...job, successOnly: false },
            { cleanup: stage.cleanup, ...edges },
          );
          const churned = await measured.result;
          await beside.result;
          return churned;
        });
        const { refused } = result;
        return {
          rest,
          churned: latenciesOf(result),
          ratio: result.p99 / rest.p99,
          refused,
          opened: counts.opened / seconds,
        };
      });
      const middle = {
        rest: medians(rounds.map(({ rest }) => rest)),
        churned: medians(rounds.map(({ churned }) => churned)),
        ratio: median(rounds.map(({ ratio }) => ratio)),
        opened: median(rounds.map(({ opened }) => opened)),
        refused: median(rounds.map(({ refused }) => refused)),
      };
      const { rest, churned, ratio, opened, refused } = middle;
      return {
        name: this.name,
        what: this.what,
        rounds,
        median: middle,
        table: {
          caption: `${timedMediansOf(bench)}; one tenant asked ${wholeNumber(rate)} times a second, a quarter of the capacity`,
          headings: ['scenario', 'cold tenants', 'p50 ms', 'p99 ms', 'opened/s', '503', 'p99 over rest (rounds)'],
          rows: [
            ['churn', 'quiet', rest.p50.toFixed(2), rest.p99.toFixed(2), '', '', ''],
            [
              '',
              `${COLD_RATE} requests/s`,
              churned.p50.toFixed(2),
              churned.p99.toFixed(2),
              opened.toFixed(1),
              wholeNumber(refused),
              ratioWithRounds(
                ratio,
                rounds.map((round) => round.ratio),
              ),
            ],
          ],
        },
        warnings: latenessWarnings(this.name, rest),
        failures:
          ratio > PROMISED ? [`${this.name}: beside cold tenants the p99 is ${ratio.toFixed(2)} of that at rest.`] : [],
      };
    });
  },
};

// The command line of `npm run bench`.
import path from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './measuring/program.js';
import { scenarios, type ScenarioName } from './scenarios/index.js';

export interface Flags {
  readonly scenarios: readonly ScenarioName[];
  /** Undefined leaves it to each scenario. */
  readonly rounds: number | undefined;
  /** Seconds that are measured, in each round and on each side. */
  readonly seconds: number;
  /** Seconds of load before them. */
  readonly warmup: number;
  readonly connections: number;
  /** Connections of one tenant pool; undefined leaves the service's default. */
  readonly poolMax: number | undefined;
  readonly fsync: boolean;
  /** Further variables of the service's environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Absolute paths: where the figures go, and where a CPU profile of the service goes. */
  readonly json: string;
  readonly profile: string | undefined;
}

/** A command line that is wrong: shown without a stack. */
export class UsageError extends Error {}

const DEFAULT_JSON = 'bench/results/latest.json';

export const HELP = `Usage: npm run bench -- [flags]

Starts a throwaway PostgreSQL, the service as in production, and a bare node:http + pg server that answers the same bytes
from the same databases; loads the two in turn, and prints the medians and the ratio between them. The scenarios from fleet
on compare the service with itself: many tenants with one, trouble with none, a cold tenant with a warm one.

  --scenario NAMES     any of these, separated by commas (default: all)
${scenarios.map(({ name, what }) => `                         ${name.padEnd(12)}${what}`).join('\n')}
  --rounds N           how often each side is measured (default 3; noisy, flood-login and hung: 5)
  --seconds N          measured seconds of a side in a round (default 8)
  --warmup N           seconds of load before them (default 2)
  --connections N      connections of the load generator where it sends as fast as it can (default 50)
  --pool-max N         connections per tenant, of the service (POOL_MAX) and of the bare server (default: the service's)
  --env NAME=VALUE     a further variable for the service, e.g. LOG_LEVEL=silent; can be repeated
  --profile FOLDER     writes a CPU profile of the service there; do not keep the figures of such a run
  --no-fsync           PostgreSQL does not wait for the disk
  --json FILE          where the figures go as JSON (default ${DEFAULT_JSON})
  --help               this text

A full run takes about a quarter of an hour, five minutes of it for the first five scenarios. Nothing else should run on the
machine meanwhile. docs/inside/benchmark.md explains the tables.
`;

/** @throws UsageError */
export function readFlags(args: readonly string[]): Flags | 'help' {
  const { values } = parse(args);
  if (values.help) return 'help';
  return {
    scenarios: readScenarios(values.scenario),
    rounds: values.rounds === undefined ? undefined : wholeNumber('rounds', values.rounds, 1),
    seconds: wholeNumber('seconds', values.seconds, 1),
    warmup: wholeNumber('warmup', values.warmup, 0),
    connections: wholeNumber('connections', values.connections, 1),
    poolMax: values['pool-max'] === undefined ? undefined : wholeNumber('pool-max', values['pool-max'], 1),
    fsync: !values['no-fsync'],
    env: Object.fromEntries(values.env.map(readVariable)),
    json: values.json === undefined ? path.join(root, DEFAULT_JSON) : path.resolve(values.json),
    profile: values.profile === undefined ? undefined : path.resolve(values.profile),
  };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        scenario: { type: 'string' },
        rounds: { type: 'string' },
        seconds: { type: 'string', default: '8' },
        warmup: { type: 'string', default: '2' },
        connections: { type: 'string', default: '50' },
        'pool-max': { type: 'string' },
        env: { type: 'string', multiple: true, default: [] },
        'no-fsync': { type: 'boolean', default: false },
        json: { type: 'string' },
        profile: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function readScenarios(text: string | undefined): readonly ScenarioName[] {
  const known = scenarios.map(({ name }) => name);
  if (text === undefined) return known;
  const wanted = text.split(',').map((name) => name.trim());
  const unknown = wanted.filter((name) => !(known as string[]).includes(name));
  if (unknown.length > 0)
    throw new UsageError(`--scenario: no "${unknown.join('", "')}"; there are ${known.join(', ')}`);
  return wanted as ScenarioName[];
}

function wholeNumber(flag: string, text: string, minimum: number): number {
  if (!/^\d{1,6}$/.test(text) || Number(text) < minimum)
    throw new UsageError(`--${flag} must be a whole number of at least ${minimum}`);
  return Number(text);
}

function readVariable(text: string): [name: string, value: string] {
  const [, name, value] = /^([A-Z_][A-Z0-9_]*)=(.*)$/s.exec(text) ?? [];
  if (name === undefined || value === undefined) throw new UsageError('--env must be NAME=VALUE');
  return [name, value];
}

// The flags of `npm run bench`.
import path from 'node:path';
import {
  defineCommand,
  readCommandLine,
  someOf,
  text,
  toggle,
  variables,
  wholeNumber,
  type Command,
  type CommandLine,
} from '../src/lib/command-line.js';
import { root } from './measuring/program.js';

export interface Flags {
  /** Names. */
  readonly scenarios: readonly string[];
  /** Undefined: each scenario decides. */
  readonly rounds: number | undefined;
  /** Measured seconds, in each round and on each side. */
  readonly seconds: number;
  /** Seconds of load before the measured seconds. */
  readonly warmup: number;
  readonly connections: number;
  /** Tenant databases of the scenario `rollout`. */
  readonly tenants: number;
  /** Connections of one tenant pool; undefined: the service's default. */
  readonly poolMax: number | undefined;
  readonly fsync: boolean;
  /** Further environment variables of the service. */
  readonly env: Readonly<Record<string, string>>;
  /** Absolute paths: the file for the figures, and the folder for CPU profiles of the service. */
  readonly json: string;
  readonly profile: string | undefined;
}

const DEFAULT_JSON = 'bench/results/latest.json';

const MOST = 999_999;

/** What the flags need to know about a scenario. */
export interface Choice {
  readonly name: string;
  readonly what: string;
}

// The return type is inferred; written out it would repeat every flag.
const benchFlags = (scenarios: readonly Choice[]) => ({
  scenario: someOf(Object.fromEntries(scenarios.map(({ name, what }) => [name, what])), {
    placeholder: 'NAMES',
    what: 'any of these, separated by commas',
    example: scenarios[0]?.name ?? '',
  }),
  rounds: wholeNumber({
    what: 'how often each side is measured',
    min: 1,
    max: MOST,
    defaultText: '3; noisy, flood-login, hung and churn: 5',
    example: 5,
  }),
  seconds: wholeNumber({ what: 'measured seconds of a side in a round', min: 1, max: MOST, default: 8 }),
  warmup: wholeNumber({ what: 'seconds of load before them', min: 0, max: MOST, default: 2 }),
  connections: wholeNumber({
    what: 'connections of the load generator when it sends as fast as it can',
    min: 1,
    max: MOST,
    default: 50,
  }),
  tenants: wholeNumber({ what: 'tenant databases of the scenario rollout', min: 20, max: 9_000, default: 1_000 }),
  'pool-max': wholeNumber({
    what: 'connections per tenant, of the service (POOL_MAX) and of the bare server',
    min: 1,
    max: MOST,
    defaultText: "the service's",
  }),
  env: variables({ what: 'a further variable for the service', example: 'LOG_LEVEL=silent' }),
  profile: text({
    placeholder: 'FOLDER',
    what: 'writes a CPU profile of the service there; do not keep the figures of such a run',
  }),
  'no-fsync': toggle({ what: 'PostgreSQL does not wait for the disk' }),
  json: text({ placeholder: 'FILE', what: 'where the figures go as JSON', defaultText: DEFAULT_JSON }),
});

type BenchFlags = ReturnType<typeof benchFlags>;

/** The command `npm run bench`, with the available scenarios. */
export function benchCommand(scenarios: readonly Choice[]): Command<BenchFlags> {
  return defineCommand({
    start: 'npm run bench --',
    about: `
Starts a throwaway PostgreSQL, the service as in production, and a bare node:http + pg server that answers the same bytes
from the same databases; loads the two in turn, and prints the medians and the ratio between them. The scenarios from fleet
on compare the service with itself: many tenants with one, trouble with none, a cold tenant with a warm one.`,
    flags: benchFlags(scenarios),
    notes: `
A full run takes about half an hour, five minutes of it for the first five scenarios, and ten for rollout. Nothing else should run
on the machine meanwhile. docs/inside/benchmark.md explains how to read it.`,
    exits: {
      0: 'measured',
      1: 'a scenario failed, or a promise that it measures was broken',
      130: 'stopped by a signal',
    },
  });
}

/** The flags as the benchmark uses them. */
export function flagsOf({ flags }: CommandLine<BenchFlags>): Flags {
  return {
    scenarios: flags.scenario,
    rounds: flags.rounds,
    seconds: flags.seconds,
    warmup: flags.warmup,
    connections: flags.connections,
    tenants: flags.tenants,
    poolMax: flags['pool-max'],
    fsync: !flags['no-fsync'],
    env: flags.env,
    json: flags.json === undefined ? path.join(root, DEFAULT_JSON) : path.resolve(flags.json),
    profile: flags.profile === undefined ? undefined : path.resolve(flags.profile),
  };
}

/** @throws UsageError */
export function readFlags(scenarios: readonly Choice[], args: readonly string[]): Flags | 'help' {
  const line = readCommandLine(benchCommand(scenarios), args);
  return line === 'help' ? 'help' : flagsOf(line);
}

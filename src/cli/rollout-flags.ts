// The plan of a rollout at the command line: the flags of `npm run migrate`, and their values, which `tenantry rollouts start` reads too.
import { text, toggle, UsageError, wholeNumber } from '../lib/command-line.js';
import type { RolloutRun } from '../rollouts/roll-tenants.js';
import type { Canary } from '../rollouts/rollout-plan.js';

export const rolloutFlags = {
  canary: text({
    what: 'migrate these tenants first: a number, a percentage, or ids separated by commas',
    placeholder: 'N|N%|IDS',
    defaultText: 'none',
    example: '5%',
  }),
  waves: text({
    what: 'then migrate the others in waves: cumulative percentages, separated by commas',
    placeholder: 'N,N',
    defaultText: 'all at once',
    example: '10,50,100',
  }),
  budget: wholeNumber({
    what: 'stop when more tenants than this have failed',
    min: 0,
    max: 1_000_000,
    defaultText: 'every tenant is tried',
    example: 3,
  }),
  'full-speed': toggle({
    what: 'do not give way to the requests of tenants',
  }),
  resume: toggle({
    what: 'go on with a rollout that is paused or stopped, and try its failed tenants again; end one of an older build',
  }),
  'no-tenants': toggle({ what: "migrate only the registry and the templates, and no tenant's database" }),
};

interface Given {
  readonly canary: string | undefined;
  readonly waves: string | undefined;
  readonly budget: number | undefined;
  readonly 'full-speed': boolean;
  readonly resume: boolean;
  readonly 'no-tenants': boolean;
}

/** @throws UsageError */
export function rolloutRunOf({
  canary,
  waves,
  budget,
  'full-speed': full,
  resume,
  'no-tenants': none,
}: Given): RolloutRun {
  return {
    wish: {
      ...(canary !== undefined && { canary: canaryOf(canary) }),
      ...(waves !== undefined && { waves: wavesOf(waves) }),
      ...(budget !== undefined && { budget }),
      ...(full && { pace: 'full' }),
    },
    resume,
    tenants: !none,
  };
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** @throws UsageError */
export function canaryOf(given: string): Canary {
  const [, count, percent] = /^(?:([1-9]\d{0,8})|([1-9]\d?|100)%)$/.exec(given) ?? [];
  if (count !== undefined) return { count: Number(count) };
  if (percent !== undefined) return { percent: Number(percent) };
  const tenants = given.split(',').map((id) => id.trim().toLowerCase());
  if (tenants.every((id) => UUID.test(id))) return { tenants };
  throw new UsageError(
    '--canary must be a number, a percentage from 1% to 100%, or ids of tenants separated by commas',
  );
}

/** @throws UsageError */
export function wavesOf(given: string): number[] {
  const waves = given.split(',').map((percent) => (/^\s*\d{1,3}\s*$/.test(percent) ? Number(percent) : NaN));
  if (waves.every((percent, index) => percent > (waves[index - 1] ?? 0) && percent <= 100)) return waves;
  throw new UsageError('--waves must be ascending percentages from 1 to 100, separated by commas');
}

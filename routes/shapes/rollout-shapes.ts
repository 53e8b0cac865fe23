// The shapes of rollouts in requests and answers.
import { z } from 'zod';
import { itemStates, rolloutPaces, rolloutStates } from '../../db/registry/rollouts/rollouts-table.js';
import type { RolloutWish } from '../../src/rollouts/rollout-plan.js';
import { answerId, count, id, timestamp, whole } from './fields.js';
import { cursor, limit, listQuery } from './lists.js';

/** The largest number of tenants. */
const MOST = 2_147_483_647;

/** The most tenants that a canary names, and the most waves. */
const MOST_CANARIES = 1_000;
const MOST_WAVES = 100;

const canary = z
  .strictObject({
    count: z.number().min(1).max(MOST).int().optional().meta({ description: 'So many tenants.' }),
    percent: z
      .number()
      .gt(0)
      .max(100)
      .optional()
      .meta({ description: 'So many percent of the tenants that are behind.' }),
    tenants: z.array(id).min(1).max(MOST_CANARIES).optional().meta({ description: 'The tenants with these ids.' }),
  })
  .refine(({ count: some, percent, tenants }) => [some, percent, tenants].filter(isGiven).length === 1, {
    error: 'must have exactly one of count, percent, tenants',
  });

const percentages = z.array(z.number().gt(0).max(100)).max(MOST_WAVES);

const failures = z.number().min(0).max(MOST).int();

export const StartRolloutBody = z
  .strictObject({
    canary: canary
      .nullable()
      .optional()
      .meta({ description: 'The tenants that go first. Without it there is no canary.' }),
    waves: percentages.optional().meta({
      description:
        'How many percent of the other tenants are done after each wave. A last wave takes the rest; without waves it takes all.',
    }),
    budget: failures.nullable().optional().meta({
      description:
        'How many tenants may fail. With one more the rollout stops; 0 stops at the first. Without it any number may fail.',
    }),
    pace: z.enum(rolloutPaces).optional().meta({
      description:
        '`gentle` gives way to requests: while tenants of a server are served, it changes one database there at a time, with a rest after each. `full` does not. The default is `gentle`.',
    }),
  })
  .meta({ id: 'StartRollout', examples: [{ canary: { count: 5 }, waves: [10, 50], budget: 2 }] });

/** The plan that the body asks for: the canary has exactly one of its keys. */
export function wishOf({ canary: first, ...wish }: z.output<typeof StartRolloutBody>): RolloutWish {
  const { count: some, percent, tenants } = first ?? {};
  if (some !== undefined) return { ...wish, canary: { count: some } };
  if (percent !== undefined) return { ...wish, canary: { percent } };
  return tenants === undefined ? wish : { ...wish, canary: { tenants } };
}

export const ResumeQuery = z.strictObject({
  pace: z.enum(rolloutPaces).optional().meta({ description: 'How fast it goes from now on.' }),
  budget: count.optional().meta({ description: 'How many tenants may fail. Failures so far count.' }),
});

export const RolloutsQuery = listQuery({ createdAt: true }, { state: z.enum(rolloutStates).optional() });

export const ItemsQuery = z.strictObject({ limit, cursor, state: z.enum(itemStates).optional() });

const plan = z.object({
  canary: z
    .object({ count: whole.optional(), percent: z.number().optional(), tenants: z.array(answerId).optional() })
    .nullable(),
  waves: z.array(z.number()),
  budget: whole.nullable(),
  pace: z.enum(rolloutPaces),
});

const counts = {
  total: whole,
  pending: whole,
  running: whole,
  done: whole,
  failed: whole,
  skipped: whole,
  percent: whole.meta({ description: 'How many of 100 have ended: done, failed or skipped.' }),
};

export const RolloutAnswer = z
  .object({
    id: answerId,
    target: z.string().meta({ description: 'The schema version that it brings the tenants to.' }),
    state: z.enum(rolloutStates).meta({
      description:
        '`stopped`: too many tenants failed, or a schema differs; it stays so until an operator acts. `done` and `aborted` are its ends.',
    }),
    plan,
    wave: whole.meta({ description: 'The wave that runs; 0 is the canary.' }),
    tenantsCurrent: whole.meta({ description: 'Tenants that had the schema when it was recorded.' }),
    differences: whole.meta({
      description: 'Compared tenants whose schema differs from the template. At most five of each wave are compared.',
    }),
    firstDifference: z.string().nullable().meta({ description: 'The first of them, and what differs.' }),
    reason: z.string().nullable().meta({ description: 'Why it stopped, in plain words.' }),
    requestedBy: answerId
      .nullable()
      .meta({ description: 'The operator; null if `npm run migrate` or the start of the service recorded it.' }),
    createdAt: timestamp,
    updatedAt: timestamp,
    finishedAt: timestamp.nullable(),
  })
  .meta({ id: 'Rollout' });

export const RolloutWithProgress = RolloutAnswer.extend({
  progress: z
    .object({
      ...counts,
      waves: z.array(z.object({ wave: whole, ...counts })),
      clusters: z.array(z.object({ cluster: z.string().meta({ description: '`host:port`.' }), ...counts })),
    })
    .meta({ description: 'Tenants that were behind, by the state of their items.' }),
}).meta({ id: 'RolloutWithProgress' });

export const ItemAnswer = z
  .object({
    tenantId: answerId,
    slug: z.string().nullable().meta({ description: 'null if the tenant is removed.' }),
    wave: whole,
    cluster: z.string().meta({ description: 'The server of its database, as `host:port`.' }),
    state: z.enum(itemStates),
    attempts: whole,
    error: z.string().nullable().meta({ description: 'Why the last attempt failed, in plain words.' }),
    durationMs: whole.nullable().meta({ description: 'Milliseconds of the last attempt.' }),
    updatedAt: timestamp,
  })
  .meta({ id: 'RolloutItem' });

function isGiven(value: unknown): boolean {
  return value !== undefined;
}

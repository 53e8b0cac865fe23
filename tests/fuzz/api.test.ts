// Every promise about answers, with generated requests. The same ones each time, so that the suite fails only for changes in the
// code. `npm run fuzz` generates others, in any number.
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { TestService } from '../support/service.js';
import { createMatcher } from './checks.js';
import { describeFailure } from './report.js';
import { fuzz, startFuzzService, untriedOf, type FuzzResult } from './run.js';

const REQUESTS = 5_000;
/** For the operations that chance has left out: a new route changes which these are. */
const FURTHER = 1_000;
const SEED = 20_260_103;
const DEADLINE = 300_000;

let service: TestService;
let result: FuzzResult;
beforeAll(async () => {
  service = await startFuzzService(inject('cluster'));
  result = await fuzz(inject('cluster'), service, { requests: REQUESTS, seed: SEED, further: FURTHER });
}, DEADLINE);
afterAll(() => service.close());

describe('of 5,000 generated requests', () => {
  it('each gets a declared answer, without a failure, without a secret, and with every header', () => {
    expect(result.failure && describeFailure(result.failure, SEED, 'http://127.0.0.1:3000')).toBeUndefined();
    expect([REQUESTS, REQUESTS + FURTHER]).toContain([...result.tally.values()].reduce((sum, count) => sum + count, 0));
  });

  it('some succeed and some are refused, for every operation', () => {
    expect(result.operations.length).toBeGreaterThanOrEqual(20);
    expect(untriedOf(result.operations, result.tally).map(({ name }) => name)).toEqual([]);
  });
});

it('every schema of a request is JSON Schema without unknown keywords', () => {
  const matches = createMatcher();
  for (const { body, parameters } of result.operations) {
    const schemas = [...(body ? [body] : []), ...parameters.map(({ schema }) => schema)];
    for (const schema of schemas) expect(() => matches(schema, null)).not.toThrow();
  }
});

// The common part of read, list and create: random requests over all tenants, tokens and ids, sent to one side or the other.
import { measure } from '../measuring/measure.js';
import type { LoadRequest } from '../programs/messages.js';
import { pick, seededRandom, type Random } from '../figures/random.js';
import type { SeededTenant } from '../stage/seed.js';
import type { Pair } from '../stage/pair.js';
import { compared, type Side } from './compared.js';
import type { Scenario } from './scenario.js';

/** A request as both sides get it: without what identifies the tenant. */
export type Ask = Pick<LoadRequest, 'method' | 'path' | 'body'>;

/** Different requests that each connection repeats. */
const REQUESTS_PER_CONNECTION = 500;

/** Requests of each tenant whose answers are compared before anything is measured. */
const SAMPLES = 5;

/** A scenario over HTTP; by default, both sides must answer the same bytes. */
export function overHttp<Name extends string>(scenario: {
  readonly name: Name;
  readonly what: string;
  readonly ask: (tenant: SeededTenant, random: Random) => Ask;
  readonly check?: (pair: Pair, tenant: SeededTenant, ask: Ask) => Promise<void>;
}): Scenario<Name> {
  const { name, what, ask, check = checkSameBytes } = scenario;
  return compared({
    name,
    what,

    async check(pair) {
      const random = seededRandom(0);
      for (const tenant of pair.tenants) {
        for (let sample = 0; sample < SAMPLES; sample += 1) await check(pair, tenant, ask(tenant, random));
      }
    },

    measure(pair, side, round) {
      const { connections, warmup, seconds } = pair.flags;
      const random = seededRandom(round);
      const requests = Array.from({ length: connections * REQUESTS_PER_CONNECTION }, () => {
        const tenant = pick(pair.tenants, random);
        return addressed(side, tenant, ask(tenant, random), random);
      });
      const { url, pid } = pair[side];
      const job = { url, connections, warmup, seconds, requests };
      return measure({ name: 'load', job, server: pid }, pair.cluster.postmaster, pair.cleanup);
    },
  });
}

/** Sends one request and returns what came back. */
export async function send(
  pair: Pair,
  side: Side,
  tenant: SeededTenant,
  ask: Ask,
): Promise<{ status: number; body: Buffer }> {
  const { method, path, headers, body = null } = addressed(side, tenant, ask, seededRandom(0));
  const response = await fetch(pair[side].url + path, { method, headers, body });
  return { status: response.status, body: Buffer.from(await response.arrayBuffer()) };
}

/** @throws Error if the two sides answer different bytes, or no success */
async function checkSameBytes(pair: Pair, tenant: SeededTenant, ask: Ask): Promise<void> {
  const service = await send(pair, 'service', tenant, ask);
  const floor = await send(pair, 'floor', tenant, ask);
  if (service.status === 200 && floor.status === 200 && service.body.equals(floor.body)) return;
  throw new Error(
    [
      `service and floor do not answer the same bytes to ${ask.method} ${ask.path}:`,
      `  service ${service.status} ${service.body.toString()}`,
      `  floor   ${floor.status} ${floor.body.toString()}`,
    ].join('\n'),
  );
}

/** The service knows the tenant from the token, the floor from a header. */
function addressed(side: Side, tenant: SeededTenant, ask: Ask, random: Random): LoadRequest {
  // Drawn for the floor too, so that both sides draw the same requests from the same seed.
  const user = pick(tenant.users, random);
  const identity = side === 'service' ? { authorization: `Bearer ${user.token}` } : { 'x-tenant': tenant.id };
  return {
    ...ask,
    headers: { ...identity, ...(ask.body !== undefined && { 'content-type': 'application/json' }) },
  };
}

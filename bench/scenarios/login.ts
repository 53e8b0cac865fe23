// Sign-in, whose cost is the hash. Its floor is a process that only verifies hashes, as many at once.
import { measure } from '../measuring/measure.js';
import { pick, seededRandom } from '../figures/random.js';
import { USER_PASSWORD } from '../stage/seed.js';
import type { Pair } from '../stage/pair.js';
import { compared } from './compared.js';

/** Sign-ins at once, and verifies at once. */
const CONCURRENCY = 8;

const REQUESTS = 2_000;

export const login = compared({
  name: 'login',
  what: `POST /auth/login, ${CONCURRENCY} at once; its floor is argon2.verify alone`,

  async check(pair) {
    const [request] = signIns(pair, 0);
    if (!request) throw new Error('there is nobody to sign in');
    const { method, path, headers, body } = request;
    const response = await fetch(pair.service.url + path, { method, headers, body });
    if (response.status !== 200) throw new Error(`sign-in answers ${response.status}: ${await response.text()}`);
  },

  measure(pair, side, round) {
    const { warmup, seconds } = pair.flags;
    if (side === 'floor') {
      const { passwordHash } = pair;
      const job = { passwordHash, password: USER_PASSWORD, concurrency: CONCURRENCY, warmup, seconds };
      return measure({ name: 'verifies', job }, pair.cluster.postmaster, pair.cleanup);
    }
    const { url, pid } = pair.service;
    const job = { url, connections: CONCURRENCY, warmup, seconds, requests: signIns(pair, round) };
    return measure({ name: 'load', job, server: pid }, pair.cluster.postmaster, pair.cleanup);
  },
});

interface SignInRequest {
  readonly method: 'POST';
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

function signIns({ tenants }: Pair, seed: number): SignInRequest[] {
  const random = seededRandom(seed);
  return Array.from({ length: REQUESTS }, () => {
    const tenant = pick(tenants, random);
    const { email } = pick(tenant.users, random);
    return {
      method: 'POST',
      path: '/auth/login',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ tenant: tenant.slug, email, password: USER_PASSWORD }),
    };
  });
}

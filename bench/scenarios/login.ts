// Sign-in, whose cost is the hash: the floor is that many verifies in a process that does nothing else.
import { measure } from '../measure.js';
import { pick, seededRandom } from '../random.js';
import { USER_PASSWORD } from '../seed.js';
import type { Stage } from '../stage.js';
import type { ComparedScenario } from './scenario.js';

/** Sign-ins at once, and verifies at once. */
const CONCURRENCY = 8;

const REQUESTS = 2_000;

export const login: ComparedScenario<'login'> = {
  kind: 'compared',
  name: 'login',
  what: `POST /auth/login, ${CONCURRENCY} at once; its floor is argon2.verify alone`,

  async check(stage) {
    const [request] = signIns(stage, 0);
    if (!request) throw new Error('there is nobody to sign in');
    const { method, path, headers, body } = request;
    const response = await fetch(stage.service.url + path, { method, headers, body });
    if (response.status !== 200) throw new Error(`sign-in answers ${response.status}: ${await response.text()}`);
  },

  measure(stage, side, round) {
    const { warmup, seconds } = stage.flags;
    if (side === 'floor') {
      const { passwordHash } = stage;
      const job = { passwordHash, password: USER_PASSWORD, concurrency: CONCURRENCY, warmup, seconds };
      return measure({ program: 'bench/verifies.js', job }, stage.postmaster, stage.cleanup);
    }
    const { url, pid } = stage.service;
    const job = { url, connections: CONCURRENCY, warmup, seconds, requests: signIns(stage, round) };
    return measure({ program: 'bench/load.js', job, server: pid }, stage.postmaster, stage.cleanup);
  },
};

interface SignInRequest {
  readonly method: 'POST';
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

function signIns({ tenants }: Stage, seed: number): SignInRequest[] {
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

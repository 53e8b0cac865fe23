// The scenarios, in the order in which they run: those on one stage together, and those that change nothing first.
import { big } from './big.js';
import { cachedFleet } from './cached-fleet.js';
import { cached } from './cached.js';
import { cold } from './cold.js';
import { create } from './create.js';
import { fleet } from './fleet.js';
import { list } from './list.js';
import { login } from './login.js';
import { migrate } from './migrate.js';
import { read } from './read.js';
import { replicas } from './replicas.js';
import { rollout } from './rollout.js';
import { tenant } from './tenant.js';
import { churn } from './trouble/churn.js';
import { failover } from './trouble/failover.js';
import { hung } from './trouble/hung.js';
import { loginFlood } from './trouble/login-flood.js';
import { noisy } from './trouble/noisy.js';
import { overload } from './trouble/overload.js';

export const scenarios = [
  read,
  list,
  create,
  login,
  replicas,
  tenant,
  fleet,
  cached,
  cachedFleet,
  cold,
  migrate,
  noisy,
  loginFlood,
  hung,
  churn,
  overload,
  rollout,
  failover,
  big,
] as const;

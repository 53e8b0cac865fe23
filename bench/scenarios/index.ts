// The scenarios, in the order in which they run: those on one stage together, and those that change nothing first.
import { big } from './big.js';
import { cachedFleet } from './cached-fleet.js';
import { cached } from './cached.js';
import { cold } from './cold.js';
import { create } from './create.js';
import { failover } from './failover.js';
import { fleet } from './fleet.js';
import { hung } from './hung.js';
import { list } from './list.js';
import { loginFlood } from './login-flood.js';
import { login } from './login.js';
import { migrate } from './migrate.js';
import { noisy } from './noisy.js';
import { read } from './read.js';
import { replicas } from './replicas.js';
import { tenant } from './tenant.js';

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
  failover,
  big,
] as const;

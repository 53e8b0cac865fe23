// The scenarios, in the order in which they run: those that change nothing first.
import { create } from './create.js';
import { list } from './list.js';
import { login } from './login.js';
import { read } from './read.js';
import { tenant } from './tenant.js';

export const scenarios = [read, list, create, login, tenant] as const;

export type ScenarioName = (typeof scenarios)[number]['name'];

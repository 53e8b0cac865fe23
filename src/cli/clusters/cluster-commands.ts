// `tenantry clusters …`.
import type { CommandGroup } from '../terminal/cli-command.js';
import { clustersAdd } from './clusters-add.js';
import { clustersCheck } from './clusters-check.js';
import { clustersDrain } from './clusters-drain.js';
import { clustersList } from './clusters-list.js';

export const clusterCommands: CommandGroup = {
  name: 'clusters',
  about: "The PostgreSQL servers that hold tenants' databases.",
  commands: [clustersList, clustersAdd, clustersCheck, clustersDrain],
};

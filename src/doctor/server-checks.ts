// What the doctor finds about a server itself: whether it answers, can hold tenants, and will go on to take writes.
import { DatabaseFault, pooledAdvice } from '../../db/driver/database-fault.js';
import { inspectCluster, type ClusterInspection } from '../../db/server/cluster-inspection.js';
import { readServerHealth, type ServerHealth } from '../../db/server/server-health.js';
import { roomWarning, searchWarnings } from '../clusters/server-room.js';
import type { Place } from '../clusters/provisioners.js';
import type { ClusterBudget } from '../connections/governors.js';
import { inPlainWords } from '../jobs/plain-words.js';
import { judgeCluster } from '../operations/cluster-fitness.js';
import { findTemplateProblem } from '../operations/template/copying-template.js';
import type { ExaminedServer } from './doctor-rooms.js';
import { finding, someOf, type Finding } from './findings.js';

/** Of about 2.1 billion: autovacuum begins at 0.2 billion, its failsafe at 1.6 billion. */
const MOST_IDS_USED = 1_500_000_000;

/** Examines the server itself. @throws DatabaseFault */
export async function examineServer({ place, provisioner }: ExaminedServer, budget: ClusterBudget): Promise<Finding[]> {
  const inspection = await inspectCluster(provisioner.cluster);
  const health = await readServerHealth(provisioner.cluster);
  const template = await findTemplateProblem(provisioner.cluster, provisioner.role);
  return [
    ...judgeServer(place, inspection, budget),
    ...judgeHealth(place, health),
    ...(template === undefined ? [] : [finding('template-unusable', { place }, `${capital(template)}.`)]),
  ];
}

export function judgeServer(place: Place, inspection: ClusterInspection, budget: ClusterBudget): Finding[] {
  const { openDatabases, otherCollations } = inspection;
  const short = roomWarning(inspection, budget);
  return [
    ...judgeCluster(inspection, budget).problems.map((problem) => finding('cluster-unfit', { place }, problem)),
    ...(short === undefined ? [] : [finding('connections-short', { place }, short)]),
    ...searchWarnings(inspection).map((warning) => finding('search-slow', { place }, warning)),
    ...(otherCollations === 0
      ? []
      : [finding('collation-changed', { place }, `${otherCollations} databases were made with another version.`)]),
    ...openDatabases.map((database) =>
      finding('server-open', { place, database }, `Every role may connect to "${database}".`),
    ),
  ];
}

export function judgeHealth(place: Place, { oldest: { database, age }, idleSlots }: ServerHealth): Finding[] {
  const used = `The database "${database}" is ${Math.round(age / 1_000_000)} million transaction ids behind.`;
  return [
    ...(age < MOST_IDS_USED ? [] : [finding('transaction-ids-low', { place, database }, used)]),
    ...(idleSlots.length === 0
      ? []
      : [finding('wal-kept', { place }, `No connection uses the replication slots ${someOf(idleSlots)}.`)]),
  ];
}

/** The finding for a server that cannot be used. Nothing more is found about that server. */
export function awayFinding(place: Place, error: unknown): Finding {
  const advice = error instanceof DatabaseFault ? pooledAdvice(error.reason) : undefined;
  const found = `${capital(inPlainWords(error))}.`;
  return advice === undefined
    ? finding('cluster-away', { place }, found)
    : finding('pooler', { place }, found, { todo: `${capital(advice)}.` });
}

function capital(part: string): string {
  return part.charAt(0).toUpperCase() + part.slice(1);
}

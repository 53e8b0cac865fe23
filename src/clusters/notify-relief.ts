// Frees a NOTIFY queue that stays full because a session of a tenant's role blocks it. Such sessions are ended, the most suspect
// first, until the queue is free.
import { setTimeout as sleep } from 'node:timers/promises';
import type { ClusterDb } from '../../db/server/server-admin.js';
import type { Events } from '../replicas/events.js';
import { CROWDED, endSuspects, queueUsage } from '../../db/server/notify-queue.js';
import type { ClusterDirectory } from './cluster-directory.js';
import type { Place, Provisioners } from './provisioners.js';

/** This long (ms) after sessions were ended, the other listeners have read what is in the queue. */
const SETTLED_AFTER = 300;

/** The result of a relief. */
interface NotifyRelief {
  /** The number of sessions that were ended, by the reason why they were suspect. */
  readonly ended: Readonly<Record<string, number>>;
  /** How full the queue is now, from 0 to 1. */
  readonly usage: number;
}

/**
 * Frees a crowded queue. If no tenant's session blocks the queue, nothing is ended: PostgreSQL's log names the process.
 *
 * @param cluster the registry's server, connected as its provisioner
 * @param installation the installation whose tenants' sessions may be ended
 * @returns undefined if the queue was in order
 * @throws DatabaseFault
 */
async function relieveNotifyQueue(cluster: ClusterDb, installation: string): Promise<NotifyRelief | undefined> {
  let usage = await queueUsage(cluster);
  if (usage < CROWDED) return undefined;
  const ended: Record<string, number> = {};
  for (const which of ['strangers', 'transactions', 'idle'] as const) {
    ended[which] = await endSuspects(cluster, which, installation);
    await sleep(SETTLED_AFTER);
    usage = await queueUsage(cluster);
    if (usage < CROWDED) break;
  }
  return { ended, usage };
}

/** A job that frees the queue if the feed says that it is crowded. */
export function createNotifyRelief(deps: {
  /** The place of the registry. */
  readonly place: Place;
  readonly events: Pick<Events, 'queueUsage'>;
  readonly clusterDirectory: Pick<ClusterDirectory, 'find'>;
  readonly provisioners: Pick<Provisioners, 'at'>;
  readonly installation: () => Promise<string>;
  readonly onRelief: (relief: NotifyRelief) => void;
}): () => Promise<void> {
  const { events, clusterDirectory, provisioners, installation, onRelief } = deps;
  const place = { host: deps.place.host, port: deps.place.port };
  return async () => {
    if (events.queueUsage < CROWDED) return;
    // The registry's server is a cluster only if it holds tenants too. Otherwise no tenant's role can reach its queue.
    if (!(await clusterDirectory.find(place))) return;
    const { cluster } = await provisioners.at(place);
    const relief = await relieveNotifyQueue(cluster, await installation());
    if (relief) onRelief(relief);
  };
}

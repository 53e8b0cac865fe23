// Takes tenants to their servers: the servers side by side, and on each server a few tenants at a time, each in one connection of the
// cluster's reserve. A server that is away fails its tenants at once, and delays those of no other server.
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { pingServer } from '../../db/server/cluster-inspection.js';
import { databasesAtOnce } from '../clusters/reserve-share.js';
import type { ClusterDirectory } from '../clusters/cluster-directory.js';
import type { PlacedProvisioner, Provisioners } from '../clusters/provisioners.js';
import { placeOf } from '../clusters/server-looks.js';
import { inPlainWords, PlainError } from '../jobs/plain-words.js';
import { makeGuest, type GuestDeps, type GuestWish, type ServerGuest } from './server-guest.js';

export interface ServersDeps extends GuestDeps {
  readonly provisioners: Provisioners;
  readonly clusterDirectory: ClusterDirectory;
  /** The most connections of the provisioner to one server. */
  readonly mostConnections: number;
}

export interface TenantWork {
  /** Runs in the connection of the caller's choice. Never rejects. */
  run(tenant: TenantRecord, site: Site): Promise<void>;
  /** The tenant's server cannot be entered. Never rejects. */
  fail(tenant: TenantRecord, error: unknown): Promise<void>;
}

/** A server, as one run works on it. */
export interface Site extends Pick<ServerGuest, 'visit'> {
  readonly provisioner: PlacedProvisioner;
  /** After an error: asks whether the whole server is away, if nothing was answered. Never rejects. */
  suspect(error: unknown): Promise<void>;
}

/** @returns the places whose guest could not be dropped: the next run drops it */
export async function onServers(
  deps: ServersDeps,
  tenants: readonly TenantRecord[],
  wish: Omit<GuestWish, 'atOnce'> & { readonly atOnce: number | undefined },
  work: TenantWork,
): Promise<readonly string[]> {
  const places = new Map<string, TenantRecord[]>();
  for (const tenant of tenants) {
    const place = `${tenant.dbHost}:${tenant.dbPort}`;
    const there = places.get(place);
    if (there) there.push(tenant);
    else places.set(place, [tenant]);
  }
  const left = await Promise.all([...places].map(([place, there]) => onServer(deps, place, there, wish, work)));
  return left.flat();
}

async function onServer(
  deps: ServersDeps,
  place: string,
  tenants: readonly TenantRecord[],
  wish: Omit<GuestWish, 'atOnce'> & { readonly atOnce: number | undefined },
  work: TenantWork,
): Promise<readonly string[]> {
  const { signal } = wish;
  let provisioner: PlacedProvisioner;
  let guest: ServerGuest;
  let atOnce: number;
  try {
    const cluster = await deps.clusterDirectory.find(placeOf(place));
    if (!cluster) throw new PlainError(`no cluster is known at ${place}`);
    provisioner = await deps.provisioners.at(cluster);
    // A half of the reserve, so that replicas continue to make tenants.
    const allowed = databasesAtOnce(cluster.budget.reserve, deps.mostConnections);
    atOnce = Math.min(allowed, wish.atOnce ?? allowed);
    guest = await makeGuest(deps, provisioner, { ...wish, atOnce });
  } catch (error) {
    for (const tenant of tenants) if (!signal.aborted) await work.fail(tenant, error);
    return [];
  }
  let away: unknown;
  const site: Site = {
    provisioner,
    visit: (tenant, task) => guest.visit(tenant, task),
    async suspect(error) {
      if (!(error instanceof DatabaseFault) || error.answered) return;
      await pingServer(provisioner.cluster).catch((answer: unknown) => {
        away = new PlainError(`its server ${place} is away: ${inPlainWords(answer)}`);
      });
    },
  };
  const waiting = tenants.values();
  const worker = async (): Promise<void> => {
    for (const tenant of waiting) {
      if (signal.aborted) return;
      if (away === undefined) await work.run(tenant, site);
      else await work.fail(tenant, away);
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, tenants.length) }, worker));
  return guest.drop().then(
    () => [],
    () => [place],
  );
}

// What the doctor looks at and repairs with: rooms of the engine.
import type { Kysely } from 'kysely';
import type { Destinations } from '../../db/driver/destinations.js';
import type { Registry, StoredLimits } from '../../db/registry/registry-schema.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import type { ClusterDirectory } from '../clusters/cluster-directory.js';
import type { Place, PlacedProvisioner, Provisioners } from '../clusters/provisioners.js';
import type { Governors } from '../connections/governors.js';
import type { Doors } from '../operations/doors/open-close.js';
import type { Transitions } from '../operations/doors/transitions.js';
import type { Reencryption } from '../operations/reencryption.js';
import type { SharedStore } from '../replicas/shared-store.js';
import type { Drift } from '../rollouts/drift.js';
import type { Envelope } from '../secrets/envelope.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';

export interface DoctorRooms {
  readonly registry: Kysely<Registry>;
  readonly installation: () => Promise<string>;
  readonly locks: TenantLocks;
  readonly provisioners: Pick<Provisioners, 'at'>;
  readonly governors: Pick<Governors, 'at'>;
  readonly clusterDirectory: Pick<ClusterDirectory, 'refresh' | 'of' | 'find'>;
  /** Of tenants' passwords. */
  readonly envelope: Envelope;
  readonly destinations: Destinations;
  readonly replicaId: string;
  readonly doors: Pick<Doors, 'follow'>;
  readonly lifecycle: Pick<Transitions, 'suspend' | 'resume' | 'restore'>;
  readonly drift: Drift;
  /** Notifies every replica that the tenant's row changed. */
  readonly publish: (tenantId: string) => Promise<void>;
  /** Notifies every replica that a session of an operator has ended. */
  readonly publishSession: (sessionId: string) => Promise<void>;
  /** The service's own limits. */
  readonly limits: StoredLimits;
  readonly reencryption: Pick<Reencryption, 'uses'>;
  /** Undefined without REDIS_URL. */
  readonly sharedStore: (Pick<SharedStore, 'state'> & { readonly settled: Promise<void> }) | undefined;
  readonly ensureDefaultCluster: () => Promise<unknown>;
  /** This machine's clock (ms). */
  readonly wallClock: () => number;
  /** Clocks may differ by so much (ms). */
  readonly clockTolerance: number;
  /** The share of a folder's disk that is free, from 0 to 1. Undefined if it is not known. */
  readonly freeDisk: (folder: string) => Promise<number | undefined>;
}

/** A server that is examined. */
export interface ExaminedServer {
  readonly place: Place;
  readonly provisioner: PlacedProvisioner;
  readonly installation: string;
}

/** A tenant that is examined, with its server. */
export interface ExaminedTenant extends ExaminedServer {
  readonly tenant: TenantRecord;
}

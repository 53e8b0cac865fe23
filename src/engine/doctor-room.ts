// The doctor, over the rooms of a replica.
import { statfs } from 'node:fs/promises';
import { MAX_CLOCK_SKEW } from '../auth/tokens.js';
import type { Config } from '../config/index.js';
import type { DoctorRooms } from '../doctor/doctor-rooms.js';
import { createDoctor, type Doctor } from '../doctor/examination.js';
import { createTenantLocks } from '../tenants/tenant-locks.js';
import type { DataPlane } from './data-plane.js';
import type { Operations } from './operations.js';
import type { Replica } from './replica.js';
import type { SchemaDrift } from './schema-drift.js';

/** Replaces the clock and the free disk space of this machine, for tests. */
export interface MachineOptions {
  readonly wallClock?: DoctorRooms['wallClock'] | undefined;
  readonly freeDisk?: DoctorRooms['freeDisk'] | undefined;
}

export function createDoctorRoom(
  rooms: Replica & DataPlane & Operations & SchemaDrift,
  config: Pick<Config, 'tenants'>,
  { wallClock = () => Date.now(), freeDisk = freeShareOf }: MachineOptions = {},
): Doctor {
  const { events, lockSession, defaultCluster } = rooms;
  return createDoctor({
    ...rooms,
    locks: createTenantLocks(lockSession),
    publish: (tenantId) => events.publish({ kind: 'tenant', tenantId }),
    publishSession: (sessionId) => events.publish({ kind: 'session', sessionId, tenantId: undefined }),
    limits: config.tenants.limits,
    ensureDefaultCluster: () => defaultCluster.ensure(),
    wallClock,
    clockTolerance: MAX_CLOCK_SKEW,
    freeDisk,
  });
}

/** Undefined if the file system does not say. */
async function freeShareOf(folder: string): Promise<number | undefined> {
  const { bavail, blocks } = await statfs(folder);
  return blocks === 0 ? undefined : bavail / blocks;
}

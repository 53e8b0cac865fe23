// An engine that does not serve, so that no job runs by itself, with tenants on a server of their own. Each tenant has a database
// that agrees with its row.
import { pino } from 'pino';
import { inject } from 'vitest';
import { createDoorDrift, type DoorDrift } from '../../src/operations/doors/door-drift.js';
import { createDoors } from '../../src/operations/doors/open-close.js';
import type { ReportLeft } from '../../src/operations/reports.js';
import { createEngine, type Engine } from '../../src/engine/index.js';
import { createTenantLocks, type TenantLocks } from '../../src/tenants/tenant-locks.js';
import { fillFleet } from './large-fleet.js';
import { startSecondCluster, type SecondCluster } from './second-cluster.js';
import { configFor, connectTo, createRegistryIn } from './service.js';

export interface FleetEngine {
  readonly engine: Engine;
  readonly locks: TenantLocks;
  /** The server of the tenants. */
  readonly server: SecondCluster;
  /** Names of the tenants' databases and roles, in order. */
  readonly names: readonly string[];
  /** The job that compares databases with rows, with a page of this many tenants. */
  driftOf(page: number, hear?: { readonly report?: ReportLeft; readonly onError?: () => void }): DoorDrift;
  close(): Promise<void>;
}

const DEFAULTS = { region: null, weight: 100, accepting: true, tlsCa: null, standbyTarget: 0 };

/** @param more another address of the server, such as a proxy's: every second tenant is there */
export async function startFleetEngine(
  tenants: number,
  more?: (server: SecondCluster) => Promise<{ host: string; port: number }>,
): Promise<FleetEngine> {
  const cluster = inject('cluster');
  const server = await startSecondCluster('fleet');
  const database = await createRegistryIn(cluster);
  const engine = await createEngine(configFor(cluster, database, {}), pino({ level: 'silent' }));
  const admin = connectTo<unknown>(cluster, database);
  const close = async (): Promise<void> => {
    await engine.close();
    await admin.close(0);
    await server.stop();
  };
  try {
    await engine.defaultCluster.ensure();
    const places = [];
    for (const { host, port } of [server.superuser, ...(more ? [await more(server)] : [])]) {
      const body = { ...server.body, ...DEFAULTS, host, port, name: `fleet at ${port}` };
      await engine.clusterRegistration.register(body, { actor: { kind: 'none' } });
      places.push({ connection: { ...server.superuser, host, port }, provisioner: server.provisioner.user });
    }
    await fillFleet(admin.db, places, { tenants, databases: tenants });
    const { registry, provisioners, installation, events, runner, lockSession } = engine;
    const rows = await registry.selectFrom('tenants').select('db_name').orderBy('db_name').execute();
    const locks = createTenantLocks(lockSession);
    return {
      engine,
      locks,
      server,
      names: rows.map((row) => row.db_name),
      driftOf(page, { report = engine.reports.left, onError = () => undefined } = {}) {
        const publish = (tenantId: string): Promise<void> => events.publish({ kind: 'tenant', tenantId });
        const doors = createDoors({ registry, provisioners, installation, publish, report });
        const wake = (): void => {
          runner.takeUp.wake();
        };
        return createDoorDrift({ registry, locks, provisioners, installation, doors, report, wake, onError }, page);
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

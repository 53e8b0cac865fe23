// The operation that makes one standby database: role, database, fill, close, ready. Its row comes first, with the sealed password,
// so that any worker can continue it or undo it. Until it is ready, nobody uses it: undoing it drops it.
import type { Kysely } from 'kysely';
import { findCluster } from '../../../db/registry/cluster-queries.js';
import { endOperation, type OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { deleteStandby, findStandby, readyStandby, type StandbyRecord } from '../../../db/registry/standby-rows.js';
import { closeDatabase } from '../../../db/server/access.js';
import { findMarks, findRoleMarks, type MarkedDatabase } from '../../../db/server/marks.js';
import { scramVerifier } from '../../../db/server/scram.js';
import {
  boundRuntimeRoles,
  createRuntimeRole,
  endOwnSessionsIn,
  endStatementsOn,
} from '../../../db/server/server-admin.js';
import { readMarker, writeMarker } from '../../../db/tenant/marker.js';
import { latestVersion } from '../../../db/shared/migrator.js';
import { tenantMigrations } from '../../../db/tenant/migrations/index.js';
import { grantRuntimeRights } from '../../../db/tenant/tenant-grants.js';
import type { Place, PlacedProvisioner } from '../../clusters/provisioners.js';
import { PlainError } from '../../jobs/plain-words.js';
import type { Envelope } from '../../secrets/envelope.js';
import { TENANT_SCRAM_ITERATIONS } from '../../tenants/tenant-ids.js';
import type { Precedence } from '../create/precedence.js';
import { LostOperation, type OperationKind, type Plan, type Step } from '../runner/operation-kinds.js';
import { standbyMark } from './standby-databases.js';
import { copyTemplate } from '../template/copying-template.js';
import { dropStandby, type DropDeps } from './drop-standby.js';

export interface MakingStandbyDeps extends DropDeps {
  readonly registry: Kysely<Registry>;
  readonly envelope: Envelope;
  /** The most connections that the pools of one tenant may hold: the role's CONNECTION LIMIT. */
  readonly connectionLimit: number;
  /** Tenants that a client waits for are made first. */
  readonly precedence: Pick<Precedence, 'quiet'>;
  /** Called when one is ready: by now the cluster may want fewer. */
  readonly onReady: () => void;
  /** Aborted when the process stops. */
  readonly stopping: AbortSignal;
}

const version = latestVersion(tenantMigrations);

export function makingStandby(deps: MakingStandbyDeps): OperationKind {
  const { registry } = deps;
  return {
    name: 'standby',
    wait: () => deps.precedence.quiet(deps.stopping),

    async plan(operation): Promise<Plan | 'done' | 'undone'> {
      const row = await findStandby(registry, operation.subject);
      // A former build has dropped it.
      if (!row) return 'undone';
      if (row.ready) return 'done';
      // It would be a copy of this build's template.
      if (row.schemaVersion > version) throw new PlainError('a replica of a newer build makes this standby database');
      const place = await findCluster(registry, row.clusterId);
      if (!place) return 'undone';
      const provisioner = await deps.provisioners.at(place);
      const mark = standbyMark(await deps.installation(), row.id);
      const steps =
        row.schemaVersion < version
          ? [outdated(() => dropStandby(deps, row, place))]
          : stepsOf(deps, operation, { row, place, provisioner, mark });
      return { steps, undone: (trx) => deleteStandby(trx, row.id) };
    },

    // The database carries the mark of a standby database without a row: it never held a tenant's data.
    abandon: (trx, { subject }) => deleteStandby(trx, subject),
  };
}

/** The runner leaves the operation to replicas of its build, and takes it when none of them lives any more. */
function outdated(undo: () => Promise<void>): Step {
  return {
    name: 'role',
    settled: () => Promise.resolve('not-done'),
    do: () => Promise.reject(new PlainError('the standby database is of an older schema version')),
    undo,
  };
}

function stepsOf(
  deps: MakingStandbyDeps,
  operation: OperationRecord,
  { row, place, provisioner, mark }: { row: StandbyRecord; place: Place; provisioner: PlacedProvisioner; mark: string },
): Step[] {
  const { cluster, inDatabase, role: owner } = provisioner;
  const { id, dbName: name } = row;

  /** No statement of a worker that is gone runs any more. Then each step compares what is there with what it makes. */
  async function settled(): Promise<'not-done'> {
    await endStatementsOn(cluster, name);
    await endOwnSessionsIn(cluster, name);
    return 'not-done';
  }

  /** @throws Error if the database is another one: the standby database is then undone */
  async function own(): Promise<MarkedDatabase> {
    const [found] = await findMarks(cluster, [name]);
    if (!found?.owned || found.text !== mark) throw new Error('there is no standby database of this mark');
    return found;
  }

  return [
    {
      name: 'role',
      settled,
      do: async () => {
        const [found] = await findRoleMarks(cluster, [name]);
        if (found && found.text !== mark) throw new Error('the role carries another mark');
        if (found) {
          // A worker may have ended before it set the bounds.
          await boundRuntimeRoles(cluster, [name]);
          return;
        }
        const password = deps.envelope.open(row.dbPassword, { id, ...atPlace(place), user: row.dbUser });
        const verifier = await scramVerifier(password, TENANT_SCRAM_ITERATIONS);
        const { connectionLimit } = deps;
        await createRuntimeRole(cluster, { name, verifier, connectionLimit, login: false, mark });
      },
      undo: () => dropStandby(deps, row, place),
    },
    {
      name: 'database',
      settled,
      do: async () => {
        const [found] = await findMarks(cluster, [name]);
        if (found?.owned && found.text === mark) return;
        // CREATE DATABASE makes it whole or not at all. Its mark comes in the next statement.
        const exists = found?.owned === true && found.text === null && !found.open;
        if (found && !exists) throw new Error('the database carries another mark');
        await copyTemplate(cluster, owner, { name, runtimeRole: name, mark, exists });
      },
    },
    {
      name: 'fill',
      settled,
      do: async () => {
        // It is closed when it is filled.
        if (!(await own()).open) return;
        await inDatabase(name, async (db) => {
          await grantRuntimeRights(db, name);
          const marker = await readMarker(db);
          if (!marker) await writeMarker(db, id);
          else if (marker.tenantId !== id) throw new Error('the marker names another tenant');
        });
      },
    },
    {
      name: 'close',
      settled,
      do: async () => {
        if ((await own()).open) await closeDatabase(cluster, name);
      },
    },
    {
      name: 'ready',
      ends: true,
      // The row and the operation change together.
      settled: () => Promise.resolve('not-done'),
      do: async () => {
        await deps.registry.transaction().execute(async (trx) => {
          if (!(await readyStandby(trx, id))) throw new Error('the row of the standby database is gone');
          if (!(await endOperation(trx, operation, 'done'))) throw new LostOperation();
        });
        deps.onReady();
      },
    },
  ];
}

function atPlace({ host, port }: Place): Place {
  return { host, port };
}

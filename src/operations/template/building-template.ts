// The operation that makes the template of a server. The template is built under another name, and renamed when it is complete. So
// an existing template is always complete, even if a worker was killed.
//
//     lock of the server's templates ── is it there? ── yes ──> done
//                                            └── no ──> make ── migrate ── seal ──> done
//
// Each attempt runs under that lock and builds a new database. A database that an earlier attempt left has no worker any more, on
// whichever replica: `make` drops it, and ends the sessions in it. So no step has to know whether it was done before. `make` also
// drops a template that PostgreSQL refuses to copy.
import type { Kysely } from 'kysely';
import { noteStep, type OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { templateMarkText } from '../../../db/server/marks.js';
import type { ClusterDb } from '../../../db/server/server-admin.js';
import {
  createClosedDatabase,
  findCopyObstacle,
  sealTemplate,
  whileTemplatesLocked,
} from '../../../db/server/templates.js';
import { latestVersion, migrateToLatest } from '../../../db/shared/migrator.js';
import { tenantMigrations } from '../../../db/tenant/migrations/index.js';
import type { PlacedProvisioner } from '../../clusters/provisioners.js';
import { PlainError } from '../../jobs/plain-words.js';
import { LostOperation, type OperationKind, type Plan, type Step } from '../runner/operation-kinds.js';
import { dropHalfBuilt, dropUnusable } from './outdated-templates.js';
import { newBuildingName, templateName } from './template-names.js';

/** How to enter the server that needs a template. */
export type TemplateServer = Pick<PlacedProvisioner, 'cluster' | 'inDatabase' | 'role'>;

export interface BuildingDeps {
  readonly registry: Kysely<Registry>;
  readonly installation: () => Promise<string>;
  /** Enters the server of an operation. Undefined if its cluster is not registered. */
  readonly enter: (operation: OperationRecord) => Promise<TemplateServer | undefined>;
  /** Called when this process has made the template. */
  readonly onMade?: () => void;
}

/** The schema version of this build's templates. */
export const templateVersion = latestVersion(tenantMigrations);

export function buildingTemplate(deps: BuildingDeps): OperationKind {
  return {
    name: 'template',

    async plan(operation) {
      const version = String(operation.details['version']);
      if (version > templateVersion) throw new PlainError('a replica of a newer build makes this template');
      if (version < templateVersion) return refusal('the template is of an older schema version');
      const server = await deps.enter(operation);
      if (!server) return refusal('the cluster is not registered');
      if (await hasTemplate(server.cluster, server.role)) return 'done';
      const installation = await deps.installation();
      return {
        surround: (attempt) =>
          whileTemplatesLocked(server.cluster, async (locked) =>
            // Another operation may have made it while this one waited for the lock.
            (await hasTemplate(locked, server.role))
              ? attempt('done')
              : attempt({ steps: stepsOf(deps, operation, { ...server, cluster: locked }, installation) }),
          ),
      };
    },
  };
}

/** Whether the server has a template of this build that it can copy. */
export async function hasTemplate(cluster: ClusterDb, owner: string): Promise<boolean> {
  return (await findCopyObstacle(cluster, templateName(tenantMigrations, owner))) === undefined;
}

/** Ends the operation without a change of the server. */
function refusal(why: string): Plan {
  const refused = (): Promise<never> => Promise.reject(new PlainError(why));
  return { steps: [{ name: 'make', settled: () => Promise.resolve('not-done'), do: refused }] };
}

/** @param server its `cluster` is the connection that holds the lock of the server's templates */
function stepsOf(
  { registry, onMade }: BuildingDeps,
  operation: OperationRecord,
  { cluster: locked, inDatabase, role }: TemplateServer,
  installation: string,
): Step[] {
  const building = newBuildingName();
  const from = templateMarkText({ installation, state: 'building', version: templateVersion });
  const clear = (): Promise<void> => dropHalfBuilt(registry, locked, { latest: templateVersion, installation });

  /** Shows how far the migrations are. They roll back if another worker has the operation, or a person has abandoned it. */
  async function progress(done: number, total: number): Promise<void> {
    const note = { step: 'migrate', undoes: false, progress: { done, total } };
    // A registry that is away delays the progress, and not the template.
    if (!(await noteStep(registry, operation, note).catch(() => true))) throw new LostOperation();
  }

  /** The lock is the fence: what an earlier attempt did to its own database does not matter to this one. */
  const settled = (): Promise<'not-done'> => Promise.resolve('not-done');

  return [
    {
      name: 'make',
      settled,
      do: async () => {
        await clear();
        await dropUnusable(registry, locked, { name: templateName(tenantMigrations, role), installation });
        await createClosedDatabase(locked, building, from);
      },
      undo: clear,
    },
    {
      name: 'migrate',
      settled,
      do: async () => {
        await inDatabase(building, (db) => migrateToLatest(db, tenantMigrations, { progress }));
      },
    },
    {
      name: 'seal',
      settled,
      do: async () => {
        const name = templateName(tenantMigrations, role);
        const mark = templateMarkText({ installation, state: 'template', version: templateVersion });
        if (!(await sealTemplate(locked, building, { name, from, mark })))
          throw new Error('the template that was being built carries another mark');
        onMade?.();
      },
    },
  ];
}

// Makes the template on a server that the caller can enter, as an operation. The caller's process works on the operation itself:
// the server may not be registered yet, and a command has no replica beside it that would take the operation.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import { findClusterAt } from '../../../db/registry/cluster-queries.js';
import type { HeldLock } from '../../../db/registry/lock-session.js';
import { insertOperation } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { newId } from '../../../db/shared/ids.js';
import { DatabaseFault } from '../../../db/driver/database-fault.js';
import type { Place } from '../../clusters/provisioners.js';
import type { TenantLocks } from '../../tenants/tenant-locks.js';
import { createJoining } from '../runner/joining.js';
import { LostOperation, type OperationKind } from '../runner/operation-kinds.js';
import type { Outcome, Runner } from '../runner/runner.js';
import { buildingTemplate, hasTemplate, templateVersion, type TemplateServer } from './building-template.js';

/** The cluster that gets the template. */
export interface TemplateSite {
  /** The id of the cluster, also if it is not registered yet. */
  readonly subject: string;
  /** Null if the registry has no row of the cluster. */
  readonly clusterId: string | null;
}

export interface TemplateMaker {
  /**
   * Makes the template if it is missing. An unfinished operation of the cluster is continued, after its worker if it has one. Two
   * workers at once make one template.
   *
   * @param patience ms in which another attempt may begin, also after another worker's
   * @returns whether this call made it
   * @throws the error of the step that failed
   */
  ensure(server: TemplateServer, site: TemplateSite, patience: number): Promise<boolean>;
}

/** Attempts of one call. The answer to a statement may be lost; after that the operation would wait for another replica. */
const ATTEMPTS = 3;

/** ms between two attempts, and between two looks at a lock that another worker has. */
const TRY_AGAIN_AFTER = 500;
const LOOK_EVERY = 50;

export function createTemplateMaker(deps: {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly runner: Pick<Runner, 'work'>;
  readonly installation: () => Promise<string>;
  /** The replica's id, or the name of the command. */
  readonly worker: string;
}): TemplateMaker {
  const { registry, locks, runner, worker } = deps;
  const joining = createJoining(deps);

  async function whenFree(subject: string, until: number, work: (held: HeldLock) => Promise<void>): Promise<void> {
    while (!(await locks.attempt(subject, work))) {
      if (performance.now() > until) throw new DatabaseFault('busy', 'another worker makes the template');
      await sleep(LOOK_EVERY);
    }
  }

  /** One attempt: at the unfinished operation of the cluster, or else at a new one. */
  async function attempt(
    kind: OperationKind,
    site: TemplateSite,
    held: HeldLock,
  ): Promise<{ outcome: Outcome; begun: boolean }> {
    const earlier = await joining.settle(kind, site.subject, held);
    if (earlier) return { outcome: earlier.outcome, begun: false };
    const details = { version: templateVersion };
    const operation = await insertOperation(registry, { kind: kind.name, ...site, details, worker });
    const outcome = operation ? await runner.work(kind, operation, { held }) : ({ state: 'lost' } as const);
    return { outcome, begun: true };
  }

  return {
    async ensure(server, site, patience) {
      const { cluster, role } = server;
      const until = performance.now() + patience;
      let made = false;
      const kind = buildingTemplate({
        ...deps,
        enter: () => Promise.resolve(server),
        onMade: () => {
          made = true;
        },
      });
      if (await hasTemplate(cluster, role)) return false;
      await whenFree(site.subject, until, async (held) => {
        for (let attempts = 1; !(await hasTemplate(cluster, role)); attempts += 1) {
          const { outcome, begun } = await attempt(kind, site, held);
          if (outcome.state === 'done' && begun) return;
          // The earlier operation may have made the template of another server: a cluster can move.
          if (outcome.state === 'done') continue;
          const failed = begun && outcome.state === 'undone';
          if (failed || attempts === ATTEMPTS || held.lost || performance.now() > until) throw errorOf(outcome);
          await sleep(TRY_AGAIN_AFTER);
        }
      });
      return made;
    },
  };
}

/** The registered cluster at a place; a new id if the registry has none there. */
export async function templateSiteAt(registry: Kysely<Registry>, place: Place | undefined): Promise<TemplateSite> {
  const row = place && (await findClusterAt(registry, place.host, place.port));
  return { subject: row?.id ?? newId(), clusterId: row?.id ?? null };
}

/** Another worker's error is not known here. */
function errorOf(outcome: Outcome): Error {
  return 'error' in outcome && outcome.error instanceof Error ? outcome.error : new LostOperation();
}

// What comes before the first tenant of a rollout: templates, what older builds make tenants from, and marks. It can be repeated.
import { templateSiteAt, type TemplateMaker } from '../operations/template/template-maker.js';
import type { Place } from '../clusters/provisioners.js';
import type { FleetServer } from './fleet-servers.js';
import { markDatabases, type FailedTenant, type MarkingDeps } from './mark-databases.js';
import { dropOlderTemplates, withdrawOlderStandby } from './older-stock.js';

export interface PreparationDeps extends MarkingDeps {
  readonly maker: TemplateMaker;
}

export interface Preparation {
  readonly templateMade: boolean;
  /** Standby databases of older builds that cannot be claimed any more. */
  readonly standbyWithdrawn: number;
  /** Databases of a former build, or databases without a mark from a dump, that now carry a mark. */
  readonly databasesMarked: number;
  /** Runtime roles of former builds that had no bounds, and got them now. */
  readonly rolesBounded: number;
  /** Tenants whose database could not be marked. */
  readonly failed: readonly FailedTenant[];
}

/** Longest wait (ms) for another worker that makes the template of a server. */
const TEMPLATE_PATIENCE = 60_000;

/** A cluster that fails is left out from then on: `deps.servers.failed` names it. */
export async function prepareFleet(deps: PreparationDeps): Promise<Preparation> {
  const { registry, servers, installation } = deps;
  const made = await servers.onEach((server, place) => ensureTemplate(deps, server, place));
  const standbyWithdrawn = await withdrawOlderStandby(registry);
  await dropOlderTemplates(registry, servers, installation);
  const { marked, bounded, failed } = await markDatabases(deps);
  return {
    templateMade: made.includes(true),
    standbyWithdrawn,
    databasesMarked: marked,
    rolesBounded: bounded,
    failed,
  };
}

/** @returns whether this call made it */
export async function ensureTemplate(
  { registry, maker }: Pick<PreparationDeps, 'registry' | 'maker'>,
  server: Pick<FleetServer, 'cluster' | 'inDatabase' | 'role'>,
  place: Place | undefined,
): Promise<boolean> {
  return maker.ensure(server, await templateSiteAt(registry, place), TEMPLATE_PATIENCE);
}

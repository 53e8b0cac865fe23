// Drops a standby database with its role, if the evidence allows it. A database that holds a tenant's data stays.
import type { Kysely } from 'kysely';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { retireStandby, type StandbyRecord } from '../../../db/registry/standby-rows.js';
import { markText } from '../../../db/server/marks.js';
import type { Place, Provisioners } from '../../clusters/provisioners.js';
import { demolish } from '../demolish.js';
import { leftAsItIs } from '../reports.js';
import { standbyMark } from './standby-databases.js';

export interface DropDeps {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly installation: () => Promise<string>;
  readonly onError: (error: unknown, context: { clusterId?: string; tenantId?: string; step: string }) => void;
}

/**
 * Drops a standby database, under its lock. Its row stays, and must be deleted next. A database that was claimed meanwhile stays:
 * it has no such row any more.
 */
export async function dropStandby(
  { registry, provisioners, installation: installationId, onError }: DropDeps,
  { id, clusterId, dbName: name, dbUser: role }: Pick<StandbyRecord, 'id' | 'clusterId' | 'dbName' | 'dbUser'>,
  place: Place,
): Promise<void> {
  // First, so that no tenant can claim it.
  if (!(await retireStandby(registry, id))) return;
  const provisioner = await provisioners.at(place);
  const installation = await installationId();
  const dropping = markText({ installation, id, state: 'dropping', claim: null, generation: 0 });
  const doomed = { place, id, name, role, grounds: [standbyMark(installation, id), dropping] };
  const left = await demolish(registry, provisioner, doomed, installation);
  // This happens when the registry was restored from a backup taken before the claim.
  if (left !== undefined)
    onError(leftAsItIs(`a standby database is left as it is, and only its row is removed: ${left}`), {
      clusterId,
      tenantId: id,
      step: 'drop standby',
    });
}

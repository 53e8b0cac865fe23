// Finds operations that have no worker: those that a job recorded, those whose pause is over, and those of a process that died.
// Every replica looks every few seconds, and takes a few of each server at once.
import type { Kysely } from 'kysely';
import { listDueOperations, type DueOperation } from '../../../db/registry/operations/operation-lists.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import type { OperationTimes } from './operation-times.js';

export interface TakeUp {
  /** Begins to look by itself. */
  begin(): void;
  /** Looks now: an operation has just been recorded for any worker. */
  wake(): void;
  /** Takes what is due now, and what becomes due meanwhile, each once. Resolves when nothing is left that this process can take. */
  now(): Promise<void>;
  /** Stops looking. What was taken goes on. */
  close(): void;
}

/** Operations of one server that this process takes at once. */
const TAKEN_AT_ONCE = 2;

/** In one look: operations that are listed, for each server and in all. */
const LISTED = { perServer: 20, all: 200 } as const;

/**
 * @param schemaVersion the schema version of tenants that this build makes
 * @param take works on an operation; never rejects. Resolves to false if another worker is at it: it is looked at again later
 * @param onError called if the registry could not be asked
 */
export function createTakeUp(
  registry: Kysely<Registry>,
  schemaVersion: string,
  { lookSoon, lookEvery }: Pick<OperationTimes, 'lookSoon' | 'lookEvery'>,
  take: (operation: DueOperation) => Promise<boolean>,
  onError: (error: unknown) => void,
): TakeUp {
  /** Running operations by server. */
  const lanes = new Map<string | null, Map<string, Promise<boolean>>>();
  let timer: NodeJS.Timeout | undefined;
  let begun = false;
  let closed = false;

  function start(operation: DueOperation, more: boolean): Promise<boolean> | undefined {
    const lane = lanes.get(operation.clusterId) ?? new Map<string, Promise<boolean>>();
    if (lane.has(operation.id) || lane.size >= TAKEN_AT_ONCE) return undefined;
    const work = take(operation).then((worked) => {
      lane.delete(operation.id);
      if (lane.size === 0) lanes.delete(operation.clusterId);
      // Otherwise this would ask again and again for a lock that another worker has.
      if (more && worked) wake();
      return worked;
    });
    lane.set(operation.id, work);
    lanes.set(operation.clusterId, lane);
    return work;
  }

  /**
   * @param more whether to look again when one of them has ended
   * @param tried ids that are left out; gets the ids that were taken
   * @returns what was taken
   */
  async function look(
    more: boolean,
    tried = new Set<string>(),
  ): Promise<{ readonly found: number; readonly taken: readonly Promise<boolean>[] }> {
    const due = await listDueOperations(registry, schemaVersion, LISTED.perServer, LISTED.all);
    if (closed) return { found: 0, taken: [] };
    const taken = due
      .filter(({ id }) => !tried.has(id))
      .flatMap((operation) => {
        const work = start(operation, more);
        if (work) tried.add(operation.id);
        return work ?? [];
      });
    return { found: due.length, taken };
  }

  function later(ms: number): void {
    if (closed || !begun) return;
    clearTimeout(timer);
    timer = setTimeout(
      () => {
        void look(true).then(
          ({ found }) => {
            later(found > 0 ? lookSoon : lookEvery);
          },
          (error: unknown) => {
            onError(error);
            later(lookEvery);
          },
        );
      },
      ms * (1 + 0.2 * Math.random()),
    );
    timer.unref();
  }

  function wake(): void {
    later(0);
  }

  return {
    begin() {
      begun = true;
      wake();
    },
    wake,

    async now() {
      // An operation whose lock another worker holds stays due.
      const tried = new Set<string>();
      for (;;) {
        const { taken } = await look(false, tried);
        const worked = await Promise.all(taken);
        if (!worked.includes(true)) break;
      }
      await Promise.all([...lanes.values()].flatMap((lane) => [...lane.values()]));
    },

    close() {
      closed = true;
      clearTimeout(timer);
    },
  };
}

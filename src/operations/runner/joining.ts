// How a request takes part in the unfinished operation of an earlier one, or gets the end of an operation that it lost.
import type { Kysely } from 'kysely';
import type { HeldLock } from '../../../db/registry/lock-session.js';
import {
  findOperation,
  findUnfinishedOperation,
  takeOperation,
  type OperationRecord,
} from '../../../db/registry/operations/operation-rows.js';
import { retryOperation } from '../../../db/registry/operations/operation-steering.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import type { TenantLocks } from '../../tenants/tenant-locks.js';
import type { OperationKind } from './operation-kinds.js';
import type { Outcome, Runner } from './runner.js';

/** An operation that a request waits for, and how it stands. */
export interface Joined {
  readonly operation: OperationRecord;
  readonly outcome: Outcome;
}

export interface Joining {
  /**
   * Works on a subject's unfinished operation, also if it waits for its next attempt or for a person. The caller holds the lock.
   *
   * @returns undefined if there is none
   */
  settle<Input>(kind: OperationKind<Input>, subject: string, held: HeldLock): Promise<Joined | undefined>;
  /**
   * Works on an operation that was just recorded, or else on the subject's unfinished one, as soon as the lock of the subject is
   * free. If another worker took the operation meanwhile, that worker's end counts.
   *
   * @param onFound called with the operation as soon as it is known
   * @returns undefined if the other operation has ended already
   */
  join<Input>(
    kind: OperationKind<Input>,
    subject: string,
    begun: OperationRecord | undefined,
    onFound: (operation: OperationRecord) => void,
  ): Promise<Joined | undefined>;
}

/** How often an operation may be lost to another worker while one request waits for it. */
const LOSSES = 3;

export function createJoining(deps: {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly runner: Pick<Runner, 'work'>;
  /** The replica's id. */
  readonly worker: string;
}): Joining {
  const { registry, locks, runner, worker } = deps;

  async function takeOver<Input>(
    kind: OperationKind<Input>,
    operation: OperationRecord,
    held: HeldLock,
  ): Promise<Outcome> {
    const { id } = operation;
    await retryOperation(registry, id);
    const taken = await takeOperation(registry, id, worker);
    if (taken) return runner.work(kind, taken, { held });
    const ended = await findOperation(registry, id);
    if (!ended || ended.state === 'done') return { state: 'done' };
    return { state: 'undone', step: ended.step ?? '', error: undefined };
  }

  return {
    async settle(kind, subject, held) {
      const operation = await findUnfinishedOperation(registry, subject, kind.name);
      if (!operation) return undefined;
      let outcome = await takeOver(kind, operation, held);
      for (let losses = 1; outcome.state === 'lost' && !held.lost && losses < LOSSES; losses += 1)
        outcome = await takeOver(kind, operation, held);
      return { operation, outcome };
    },

    async join(kind, subject, begun, onFound) {
      const operation = begun ?? (await findUnfinishedOperation(registry, subject, kind.name));
      if (!operation) return undefined;
      onFound(operation);
      let outcome: Outcome = begun ? await runner.work(kind, begun) : { state: 'lost' };
      for (let losses = 0; outcome.state === 'lost' && losses < LOSSES; losses += 1)
        outcome = await locks.hold(subject, (held) => takeOver(kind, operation, held));
      return { operation, outcome };
    },
  };
}

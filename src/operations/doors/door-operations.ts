// The operations `open` and `close`: they apply the status in a tenant's row to its database. The row decides, whatever the operation
// is called, so a late `close` never closes a database whose row is active again.
//
//     close:             follow
//     open, resuming:    open ── row ── follow     the database opens first, so that no request reaches a closed one
//     open, restoring:   follow                    opens the database, and then finishes the restoration
//     open, otherwise:   follow                    a job found that the database disagrees with its row
//
// Only the process of the request knows the changes of a resumption. If it ends before the step `row`, another worker lets the
// database follow the unchanged row, and the operation is undone.
import type { Kysely, Transaction } from 'kysely';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import type { ExpectedVersions } from '../../../db/shared/row-version.js';
import type { HeldLock } from '../../../db/registry/lock-session.js';
import { endNeedless, noteDetails, supersedeOperation } from '../../../db/registry/operations/operation-fences.js';
import {
  endOperation,
  findOperation,
  insertOperation,
  type OperationRecord,
} from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { findSettledTenant } from '../../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import { DatabaseFault } from '../../../db/driver/database-fault.js';
import { operatorIdOf } from '../../audit/operator-act.js';
import type { RecordEvent } from '../../observability/security-events.js';
import { changeTenant, type TenantChanges } from '../../tenants/tenant-changes.js';
import type { TenantLocks } from '../../tenants/tenant-locks.js';
import { wantedDoor, type Doors } from './open-close.js';
import { leftAsItIs } from '../reports.js';
import { createJoining, type Joined } from '../runner/joining.js';
import { LostOperation, PastReturn, type OperationKind, type Plan, type Step } from '../runner/operation-kinds.js';
import type { Outcome, Runner } from '../runner/runner.js';

/** What only the request of a resumption knows. */
export interface Resumption {
  readonly changes: TenantChanges;
  readonly origin: AuditOrigin;
  /** Versions that the row may have. */
  readonly expected: ExpectedVersions;
}

export interface DoorOperations {
  /**
   * Records in an act's transaction, after the change of the row, that the database must close. An unfinished resumption is undone:
   * the later act counts.
   *
   * @returns undefined if an unfinished operation does it
   */
  beginClosing(
    trx: Transaction<Registry>,
    tenant: TenantRecord,
    origin: AuditOrigin,
  ): Promise<OperationRecord | undefined>;
  /**
   * Closes the database, for a person who asks.
   *
   * @param begun what `beginClosing` returned
   * @param onFound called with the operation as soon as it is known
   * @returns undefined if another worker has closed it
   */
  close(
    tenantId: string,
    begun: OperationRecord | undefined,
    onFound: (operation: OperationRecord) => void,
  ): Promise<Outcome | undefined>;
  /**
   * Records that the database must open. The caller holds the tenant's lock.
   *
   * @returns undefined if there is an unfinished operation
   */
  beginOpening(
    db: Kysely<Registry>,
    tenant: TenantRecord,
    origin: AuditOrigin,
    act: 'resume' | 'restore',
  ): Promise<OperationRecord | undefined>;
  /** Opens the database, for a person who asks. The caller holds the tenant's lock. */
  open(operation: OperationRecord, held: HeldLock, resumption?: Resumption): Promise<Outcome>;
  /** Works on what an earlier request left unfinished. The caller holds the tenant's lock. Undefined if there is nothing. */
  settleOpening(tenantId: string, held: HeldLock): Promise<Joined | undefined>;
}

/** How often the row may change while it is applied. */
const LOOKS = 5;

/** These steps have nothing to undo: the row is changed, and the database must follow it. */
const onlyForward = { undo: () => Promise.reject(new PastReturn()) } as const;

export function createDoorOperations(deps: {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly runner: Runner;
  /** The replica's id. */
  readonly worker: string;
  readonly doors: Pick<Doors, 'follow' | 'openFirst'>;
  readonly publish: (tenantId: string) => Promise<void>;
  /** Called when a tenant is resumed. */
  readonly record: RecordEvent;
}): DoorOperations {
  const { registry, runner, worker, doors } = deps;
  const joining = createJoining(deps);

  /** @param asked as in Doors.follow */
  function following(operation: OperationRecord, asked: boolean): Step {
    const id = operation.subject;

    /** Ends the operation only if the row is still the one that was applied: an act that changed it meanwhile counts on this. */
    async function ended(followed: TenantRecord | undefined): Promise<boolean> {
      return registry.transaction().execute(async (trx) => {
        const now = await findSettledTenant(trx, id);
        if (now && (now.generation !== followed?.generation || now.status !== followed.status)) return false;
        await endNeedless(trx, id, ['open', 'close']);
        if (!(await endOperation(trx, operation, 'done'))) throw new LostOperation();
        return true;
      });
    }

    return {
      name: 'follow',
      // Compares before it changes anything, so it is simply done again.
      settled: async () => 'not-done',
      async do() {
        for (let looks = 0; looks < LOOKS; looks += 1) {
          const { tenant, left } = await doors.follow(id, asked);
          if (left) throw leftAsItIs('the database of a tenant is left as it is', left);
          if (tenant?.status === 'active') await deps.publish(id);
          if (await ended(tenant)) return;
        }
        throw new DatabaseFault('busy', 'the row of the tenant keeps changing');
      },
      ...onlyForward,
    };
  }

  /** Whether the resumption has changed the row, after all transactions on the row have ended. */
  async function hasChanged({ id, subject }: OperationRecord): Promise<boolean> {
    await findSettledTenant(registry, subject);
    return (await findOperation(registry, id))?.details['changed'] === true;
  }

  /** A resumption goes on once it has changed the row. */
  async function ensureUnchanged(operation: OperationRecord): Promise<void> {
    if (await hasChanged(operation)) throw new PastReturn();
  }

  /** The database follows the unchanged row again. Without evidence nothing was opened, so nothing is undone. */
  async function undoOpening(operation: OperationRecord): Promise<void> {
    await ensureUnchanged(operation);
    await doors.follow(operation.subject);
  }

  function resuming(
    operation: OperationRecord,
    tenant: TenantRecord,
    { changes, origin, expected }: Resumption,
  ): readonly Step[] {
    const { id } = tenant;
    const fence = async (trx: Kysely<Registry>): Promise<OperationRecord> => {
      if (!(await noteDetails(trx, operation, { changed: true }))) throw new LostOperation();
      return operation;
    };
    return [
      {
        name: 'open',
        settled: async () => ((await hasChanged(operation)) ? 'done' : 'not-done'),
        async do() {
          await doors.openFirst(id);
        },
        undo: () => undoOpening(operation),
      },
      {
        name: 'row',
        settled: async () => ((await hasChanged(operation)) ? 'done' : 'not-done'),
        async do() {
          const isActive = tenant.status === 'active';
          if (isActive && isEmpty(changes)) await fence(registry);
          else await changeTenant(registry, id, { ...changes, status: 'active' }, origin, { expected, also: fence });
          if (!isActive) deps.record('tenant-resumed', { tenantId: id }, origin);
        },
        undo: () => ensureUnchanged(operation),
        irrevocable: true,
      },
      { ...following(operation, true), undo: () => ensureUnchanged(operation) },
    ];
  }

  async function planOpening(
    operation: OperationRecord,
    resumption: Resumption | undefined,
    asked: boolean,
  ): Promise<Plan | 'undone'> {
    const tenant = await findSettledTenant(registry, operation.subject);
    if (!tenant) return 'undone';
    if (resumption) return { steps: resuming(operation, tenant, resumption) };
    const changed = operation.details['changed'] === true;
    const restores = operation.details['restores'] === true;
    const goesOn =
      wantedDoor(tenant) === 'open' || tenant.restoring || changed || (restores && tenant.status !== 'deleted');
    if (goesOn) return { steps: [following(operation, asked)] };
    const given: Step = {
      name: 'row',
      settled: async () => 'not-done',
      do: () => Promise.reject(new Error('the process that knew the changes of the tenant has ended')),
      undo: () => undoOpening(operation),
    };
    return { steps: [given] };
  }

  const opening = (asked: boolean): OperationKind<Resumption> => ({
    name: 'open',
    plan: (operation, resumption) => planOpening(operation, resumption, asked),
  });

  const closing = (asked: boolean): OperationKind => ({
    name: 'close',
    plan: async (operation) => ({ steps: [following(operation, asked)] }),
  });

  // What a worker continues is no longer asked for by a person: perhaps the registry was restored to an earlier moment since.
  runner.add(opening(false));
  runner.add(closing(false));

  function valuesOf({ id, clusterId }: TenantRecord, origin: AuditOrigin) {
    return {
      subject: id,
      tenantId: id,
      clusterId,
      operatorId: operatorIdOf(origin),
      worker,
    };
  }

  return {
    async beginClosing(trx, tenant, origin) {
      await supersedeOperation(trx, tenant.id, 'open');
      return insertOperation(trx, { kind: 'close', ...valuesOf(tenant, origin) });
    },

    async close(tenantId, begun, onFound) {
      return (await joining.join(closing(true), tenantId, begun, onFound))?.outcome;
    },

    beginOpening: (db, tenant, origin, act) =>
      insertOperation(db, {
        kind: 'open',
        ...valuesOf(tenant, origin),
        ...(act === 'restore' && { details: { restores: true } }),
      }),

    open: (operation, held, input) => runner.work(opening(true), operation, { held, ...(input && { input }) }),

    settleOpening: (tenantId, held) => joining.settle(opening(true), tenantId, held),
  };
}

/** Whether a request changes nothing. */
export function isEmpty(changes: TenantChanges): boolean {
  return Object.values(changes).every((value) => value === undefined);
}

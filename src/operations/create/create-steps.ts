// The steps of making a tenant. The mark of its database decides whether it goes forward or is undone, the same for every worker:
//
//     standby, making            → undone, unless the process that knows the admin is still at it: `condemn` changes the mark to
//                                  `dropping`, and no worker can activate the tenant any more
//     tenant, or later           → forward: the row becomes active, or suspended when the database is closed
//     anything else              → the database is another tenant's: it is left and reported, and the row goes
import { claimMarker, readMarker, writeMarker } from '../../../db/tenant/marker.js';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import { deleteTenantRow, findSettledTenant } from '../../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import { wasAnswered } from '../../../db/driver/database-fault.js';
import { openStandby } from '../../../db/server/access.js';
import { changeMark, findMarks, findRoleMarks, markText } from '../../../db/server/marks.js';
import {
  boundRuntimeRoles,
  createRuntimeRole,
  endOwnSessionsIn,
  endStatementsOn,
} from '../../../db/server/server-admin.js';
import { scramVerifier } from '../../../db/server/scram.js';
import { grantRuntimeRights } from '../../../db/tenant/tenant-grants.js';
import { hasUsers } from '../../../db/tenant/usage-queries.js';
import { insertFirstAdmin } from '../../../db/tenant/user-queries.js';
import { confirmOperator, originOf } from '../../audit/operator-act.js';
import type { PlacedProvisioner } from '../../clusters/provisioners.js';
import { TENANT_SCRAM_ITERATIONS } from '../../tenants/tenant-ids.js';
import { activate } from './activation.js';
import { PastReturn, type Plan, type Step } from '../runner/operation-kinds.js';
import { standbyMark } from '../standby/standby-databases.js';
import { copyTemplate } from '../template/copying-template.js';
import type { CreationDeps, CreationInput } from './creation.js';
import { giveUp, takeBack } from './take-back.js';
import { isWhole } from './wholeness.js';

/** Why a standby database could not be claimed: it may hold a tenant's data. */
export class StandbyTaken extends Error {}

/** The row of the tenant was recorded together with the operation. */
const REGISTER: Step = {
  name: 'register',
  settled: () => Promise.resolve('done'),
  do: () => Promise.resolve(),
};

export const claimSteps = ['register', 'open', 'fill', 'mark', 'activate'] as const;
export const provisioningSteps = ['register', 'role', 'database', 'fill', 'mark', 'activate'] as const;
export type ProvisioningStep = (typeof claimSteps)[number] | (typeof provisioningSteps)[number];

/** The plan of making a tenant, as far as it is not made or undone yet. */
export async function planCreation(
  deps: CreationDeps,
  operation: OperationRecord,
  input: CreationInput | undefined,
): Promise<Plan | 'done' | 'undone'> {
  const { registry } = deps;
  const tenant = await findSettledTenant(registry, operation.subject);
  if (!tenant) return 'undone';
  if (tenant.status === 'deleting' && !operation.undoes) return 'undone';
  if (tenant.status !== 'provisioning' && tenant.status !== 'deleting') return 'done';
  const provisioner = await deps.provisioners.at({ host: tenant.dbHost, port: tenant.dbPort });
  const creation = new Creation(deps, operation, input, tenant, provisioner, await deps.installation());
  return { steps: creation.steps(), undone: (trx) => deleteTenantRow(trx, tenant.id) };
}

/** One attempt at making a tenant. */
class Creation {
  readonly #making: string;
  readonly #tenant: string;
  /** The registry has refused to make the row active: then the tenant was certainly never served. */
  #refused = false;
  /** The standby database was not one: nothing of it is this tenant's. */
  #foreign = false;
  #fenced: Promise<void> | undefined;

  constructor(
    private readonly deps: CreationDeps,
    private readonly operation: OperationRecord,
    private readonly input: CreationInput | undefined,
    private readonly row: TenantRecord,
    private readonly provisioner: PlacedProvisioner,
    private readonly installation: string,
  ) {
    const { id, claim, generation } = row;
    this.#making = markText({ installation, id, state: 'making', claim, generation });
    this.#tenant = markText({ installation, id, state: 'tenant', claim, generation });
  }

  steps(): Step[] {
    const first = this.operation.details['source'] === 'standby' ? [this.#open()] : [this.#role(), this.#database()];
    return [REGISTER, ...first, this.#fill(), this.#mark(), this.#activate()];
  }

  get #origin(): AuditOrigin {
    return this.input?.origin ?? originOf(this.operation);
  }

  /** @throws Error if another process began the operation: then the first admin is not known */
  #known(): CreationInput {
    if (!this.input) throw new Error('the process that began the operation has ended');
    if (this.row.status !== 'provisioning') throw new Error('the row of the tenant is being removed');
    return this.input;
  }

  /** Before a step counts as not done: no statement of a lost connection may still do it. */
  #fence(): Promise<void> {
    const { cluster } = this.provisioner;
    const { dbName } = this.row;
    return (this.#fenced ??= endStatementsOn(cluster, dbName).then(() => endOwnSessionsIn(cluster, dbName)));
  }

  async #isWhole(): Promise<boolean> {
    // A row that is being removed cannot become active any more.
    if (this.row.status !== 'provisioning') return false;
    const [found] = await findMarks(this.provisioner.cluster, [this.row.dbName]);
    return found !== undefined && (await isWhole(this.provisioner, this.row, found, this.installation));
  }

  /** Claims the standby database. */
  #open(): Step {
    const { cluster } = this.provisioner;
    const { id, dbName: name } = this.row;
    return {
      name: 'open',
      settled: async () => {
        await this.#fence();
        const [found] = await findMarks(cluster, [name]);
        const isOpen = found?.open === true && found.text === this.#making;
        return isOpen || (await this.#isWhole()) ? 'done' : 'not-done';
      },
      do: async () => {
        this.#known();
        const mark = { from: [standbyMark(this.installation, id), this.#making], to: this.#making };
        if (await openStandby(cluster, name, mark)) return;
        // This happens when the registry was restored from a backup taken before the claim.
        this.#foreign = true;
        throw new StandbyTaken('the standby database may hold the data of a tenant');
      },
      undo: () => this.#takeBack(),
    };
  }

  #role(): Step {
    const { cluster } = this.provisioner;
    const { id, dbHost: host, dbPort: port, dbUser: name, dbPassword } = this.row;
    const hasMark = async (): Promise<boolean> => {
      const [found] = await findRoleMarks(cluster, [name]);
      return found?.text === this.#making;
    };
    return {
      name: 'role',
      settled: async () => {
        await this.#fence();
        if (await hasMark()) {
          // A worker may have ended before it set the bounds.
          await boundRuntimeRoles(cluster, [name]);
          return 'done';
        }
        return (await this.#isWhole()) ? 'done' : 'not-done';
      },
      do: async () => {
        this.#known();
        const password = this.deps.envelope.open(dbPassword, { id, host, port, user: name });
        const verifier = await scramVerifier(password, TENANT_SCRAM_ITERATIONS);
        const { connectionLimit } = this.deps;
        await createRuntimeRole(cluster, { name, verifier, connectionLimit, mark: this.#making });
      },
      undo: () => this.#takeBack(),
    };
  }

  #database(): Step {
    const { cluster, role: owner } = this.provisioner;
    const { dbName: name } = this.row;
    let exists = false;
    return {
      name: 'database',
      settled: async () => {
        await this.#fence();
        const [found] = await findMarks(cluster, [name]);
        // It was created, and not marked yet. Its role carries the mark.
        exists = found?.text === null && !found.open && found.owned && found.roleText === this.#making;
        const isMade = found?.open === true && found.text === this.#making;
        return isMade || (await this.#isWhole()) ? 'done' : 'not-done';
      },
      do: async () => {
        this.#known();
        await copyTemplate(cluster, owner, { name, runtimeRole: name, mark: this.#making, exists });
      },
    };
  }

  #fill(): Step {
    const { inDatabase } = this.provisioner;
    const { id, dbName: name } = this.row;
    const claim = this.row.claim ?? '';
    return {
      name: 'fill',
      settled: async () => {
        await this.#fence();
        if (await this.#isWhole()) return 'done';
        if (!this.input) return 'not-done';
        return (await inDatabase(name, hasUsers)) ? 'done' : 'not-done';
      },
      do: async () => {
        const { admin: given, origin } = this.#known();
        await inDatabase(name, async (db) => {
          if (this.operation.details['source'] !== 'standby') {
            await grantRuntimeRights(db, name);
            if (!(await readMarker(db))) await writeMarker(db, id, claim);
          } else if (!(await claimMarker(db, id, claim))) {
            throw new Error('the standby database carries the marker of another tenant');
          }
          // Awaited last: the hash is computed while the database is being entered.
          const admin = { ...given, passwordHash: await given.passwordHash };
          // The last step that can be undone.
          await confirmOperator(this.deps.registry, origin);
          if (!(await insertFirstAdmin(db, admin))) throw new Error('the template has no role "admin"');
        });
      },
    };
  }

  #mark(): Step {
    const { cluster } = this.provisioner;
    const { dbName: database, dbUser: role } = this.row;
    return {
      name: 'mark',
      settled: async () => ((await this.#isWhole()) ? 'done' : 'not-done'),
      do: async () => {
        this.#known();
        const change = { database, role, from: [this.#making, this.#tenant], to: this.#tenant };
        if (!(await changeMark(cluster, change))) throw new Error('another worker undoes the new tenant');
      },
      undo: async () => {
        if (!this.#refused && (await this.#isWhole())) throw new PastReturn();
      },
    };
  }

  #activate(): Step {
    const { registry, record } = this.deps;
    const { cluster } = this.provisioner;
    return {
      name: 'activate',
      ends: true,
      // The row was read under its lock, and is not active.
      settled: () => Promise.resolve('not-done'),
      do: async () => {
        const { dbName: name, dbUser: role } = this.row;
        let status: 'active' | 'suspended' = 'active';
        if (!this.input) {
          const [found] = await findMarks(cluster, [name]);
          // A dump restores no mark. A database of a former build gets its mark when it is completed.
          if (found?.text === null && this.row.claim !== null)
            await changeMark(cluster, { database: name, role, from: [null], to: this.#tenant });
          if (found?.open === false) status = 'suspended';
        }
        try {
          const active = await activate(registry, this.row, this.operation, this.#origin, record, status);
          if (!active) throw new Error('the row of the new tenant is gone');
          this.input?.made(active);
        } catch (error) {
          this.#refused = this.input !== undefined && wasAnswered(error);
          throw error;
        }
      },
      undo: async () => {
        // From now on the row can no longer become active.
        if (this.#refused) await giveUp(registry, this.row);
      },
    };
  }

  #takeBack(): Promise<void> {
    if (this.#foreign) return giveUp(this.deps.registry, this.row, 'keep');
    const { row, provisioner, installation } = this;
    const creation = { row, provisioner, installation, refused: this.#refused, isWhole: () => this.#isWhole() };
    return takeBack(this.deps, creation);
  }
}

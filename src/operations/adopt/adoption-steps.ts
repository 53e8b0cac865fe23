// The steps of adopting a database. Its mark decides whether the adoption goes forward or is undone, the same for every worker:
//
//     adopted by this operation, or later  → forward: the row becomes active, or suspended when the database is closed
//     anything else                        → undone, unless the process that knows the first admin is still at it
//
// Undoing begins with the row, so that no other worker makes the tenant active. It drops the role, and nothing else.
import type { Kysely } from 'kysely';
import { closeToOthers, letGo, reopenToOthers, undoFilling } from '../../../db/server/adoption-checks.js';
import { findOperation, type OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import { findSettledTenant, markTenantDeleting } from '../../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import { whileOpenToOwner } from '../../../db/server/access.js';
import { changeMark, findMarks, findRoleMarks, markText, type MarkedDatabase } from '../../../db/server/marks.js';
import {
  boundRuntimeRoles,
  createRuntimeRole,
  endOwnSessionsIn,
  endStatementsOn,
} from '../../../db/server/server-admin.js';
import { migrateToLatest, pendingMigrations } from '../../../db/shared/migrator.js';
import { scramVerifier } from '../../../db/server/scram.js';
import { grantRuntimeRights } from '../../../db/tenant/tenant-grants.js';
import { readMarker, writeMarker } from '../../../db/tenant/marker.js';
import { tenantMigrations } from '../../../db/tenant/migrations/index.js';
import type { TenantDatabase } from '../../../db/tenant/tenant-schema.js';
import { setRoles } from '../../../db/tenant/user-roles.js';
import { insertUser } from '../../../db/tenant/user-queries.js';
import { confirmOperator, originOf } from '../../audit/operator-act.js';
import type { PlacedProvisioner } from '../../clusters/provisioners.js';
import { TENANT_SCRAM_ITERATIONS } from '../../tenants/tenant-ids.js';
import { activate } from '../create/activation.js';
import { dismiss } from '../demolish.js';
import { leftAsItIs } from '../reports.js';
import { LostOperation, PastReturn, type Settled, type Step } from '../runner/operation-kinds.js';
import { isWhole } from '../create/wholeness.js';
import { rightsInDetails, type AdoptionDeps, type AdoptionInput } from './adoption-input.js';

/** The generation of a tenant that is being made. */
export const FIRST = 1;

/** One attempt at an adoption. */
export class Adopting {
  readonly #database: string;
  readonly #role: string;
  readonly #making: string;
  readonly #adopted: string;
  /** Whether the database was marked before this attempt. */
  #marked: Promise<boolean> | undefined;

  constructor(
    private readonly deps: AdoptionDeps,
    private readonly operation: OperationRecord,
    private readonly input: AdoptionInput | undefined,
    private readonly row: TenantRecord & { readonly adopts: string },
    private readonly provisioner: PlacedProvisioner,
    private readonly installation: string,
  ) {
    const { id, claim } = row;
    this.#database = row.adopts;
    this.#role = row.dbUser;
    this.#making = markText({ installation, id, state: 'making', claim, generation: FIRST });
    this.#adopted = markText({ installation, id, state: 'adopted', claim, generation: FIRST });
  }

  steps(): Step[] {
    return [this.#makeRole(), this.#close(), this.#migrate(), this.#fill(), this.#mark(), this.#activate()];
  }

  /** Without the first admin, or with a row that is being removed, the steps before the mark are only undone. */
  get #goesOn(): AdoptionInput | undefined {
    return this.row.status === 'provisioning' ? this.input : undefined;
  }

  /**
   * As `Step.settled`, for a step before the mark. A step that is not repeated counts as done, so that the undoing includes it.
   */
  #asked(settled: () => Promise<boolean>): () => Promise<Settled> {
    return async () => {
      if (!this.#goesOn) return 'done';
      return (await (this.#marked ??= this.#isMarked())) || (await settled()) ? 'done' : 'not-done';
    };
  }

  /** Before a step counts as not done: no statement of a lost connection may still do it. */
  async #fence(): Promise<void> {
    const { cluster } = this.provisioner;
    await endStatementsOn(cluster, this.#role);
    await endOwnSessionsIn(cluster, this.#database);
  }

  async #found(): Promise<MarkedDatabase | undefined> {
    const [found] = await findMarks(this.provisioner.cluster, [this.#database]);
    return found;
  }

  /** Whether the database carries the mark of this adoption. A change of the mark that is in progress ends first. */
  async #isMarked(): Promise<boolean> {
    let found = await this.#found();
    if (!found) return false;
    if (found.text === null) {
      const { cluster } = this.provisioner;
      if (await changeMark(cluster, { database: this.#database, from: [null], to: null })) return false;
      found = await this.#found();
    }
    return found !== undefined && isWhole(this.provisioner, this.row, found, this.installation);
  }

  /** From now on no other worker makes the tenant active. @throws PastReturn if the database is marked, or the tenant active */
  async #giveUp(): Promise<void> {
    const { id, status } = this.row;
    if (status === 'provisioning' && (await this.#isMarked())) throw new PastReturn();
    await this.deps.registry.transaction().execute(async (trx) => {
      const given = await markTenantDeleting(trx, id, ['provisioning'], { onPurge: 'keep' });
      const now = given ?? (await findSettledTenant(trx, id));
      if (now && now.status !== 'deleting') throw new PastReturn();
    });
  }

  /** As `Step.undo`. If the database is gone, only the role is left to undo. */
  #undoing(undo: (database: MarkedDatabase) => Promise<void>): () => Promise<void> {
    return async () => {
      await this.#giveUp();
      const found = await this.#found();
      if (!found) return;
      if (!found.owned) {
        const why = 'it belongs to another role';
        this.deps.report(this.row, why);
        throw leftAsItIs(`the database of an adoption is left as it is: ${why}`);
      }
      await this.#fence();
      await undo(found);
    };
  }

  #inside({ name, open }: MarkedDatabase, work: (db: Kysely<TenantDatabase>) => Promise<void>): Promise<void> {
    const { cluster, inDatabase } = this.provisioner;
    return open ? inDatabase(name, work) : whileOpenToOwner(cluster, name, () => inDatabase(name, work));
  }

  #makeRole(): Step {
    const { cluster } = this.provisioner;
    const { id, dbHost: host, dbPort: port, dbPassword } = this.row;
    const name = this.#role;
    return {
      name: 'role',
      settled: this.#asked(async () => {
        await this.#fence();
        const [found] = await findRoleMarks(cluster, [name]);
        if (found?.text !== this.#making) return false;
        await boundRuntimeRoles(cluster, [name]);
        return true;
      }),
      do: async () => {
        const password = this.deps.envelope.open(dbPassword, { id, host, port, user: name });
        const verifier = await scramVerifier(password, TENANT_SCRAM_ITERATIONS);
        const { connectionLimit } = this.deps;
        await createRuntimeRole(cluster, { name, verifier, connectionLimit, mark: this.#making });
      },
      undo: async () => {
        await this.#giveUp();
        await endStatementsOn(cluster, name);
        await dismiss(this.provisioner, { id, role: name });
      },
    };
  }

  #close(): Step {
    const { cluster } = this.provisioner;
    const { id } = this.row;
    const database = this.#database;
    const role = this.#role;
    return {
      name: 'close',
      // Revokes and grants what is already revoked and granted.
      settled: this.#asked(() => Promise.resolve(false)),
      do: () => closeToOthers(cluster, database, role),
      undo: this.#undoing(async (found) => {
        await this.#inside(found, (db) => letGo(db, role, id));
        const rights = rightsInDetails(this.operation.details);
        // Compares the mark first: another adoption may have the database by now.
        const from = [null, this.#adopted];
        await changeMark(cluster, { database, from, to: null, also: reopenToOthers(database, rights, role) });
      }),
    };
  }

  #migrate(): Step {
    const { inDatabase } = this.provisioner;
    const database = this.#database;
    const pending = (): Promise<readonly string[]> =>
      inDatabase(database, (db) => pendingMigrations(db, tenantMigrations));
    let begun = false;
    return {
      name: 'migrate',
      settled: this.#asked(async () => {
        await this.#fence();
        const isDone = (await pending()).length === 0;
        if (isDone && begun && this.input) this.input.migrated = true;
        return isDone;
      }),
      do: () =>
        inDatabase(database, async (db) => {
          begun = (await pendingMigrations(db, tenantMigrations)).length > 0;
          await migrateToLatest(db, tenantMigrations);
          if (begun && this.input) this.input.migrated = true;
        }),
    };
  }

  #fill(): Step {
    const { inDatabase } = this.provisioner;
    const { registry } = this.deps;
    const { id } = this.row;
    const claim = this.row.claim ?? '';
    const { adminId } = this.operation.details;
    return {
      name: 'fill',
      settled: this.#asked(async () => {
        await this.#fence();
        const marker = await inDatabase(this.#database, readMarker);
        return marker?.tenantId === id && marker.claim === claim;
      }),
      do: () =>
        inDatabase(this.#database, async (db) => {
          const { input } = this;
          if (!input || typeof adminId !== 'string') throw new Error('the first admin is not known');
          // Asked again here: this is the last step that can be undone, and `migrate` can take long.
          await confirmOperator(registry, input.origin);
          await grantRuntimeRights(db, this.#role);
          await db.transaction().execute(async (trx) => {
            await writeMarker(trx, id, claim);
            // Asked while this connection is open. A worker that undoes the adoption takes the operation first, and then ends
            // this connection.
            await this.#ensureOurs();
            await insertUser(trx, { id: adminId, ...input.admin });
            const unknown = await setRoles(trx, adminId, ['admin']);
            if (unknown.length > 0) throw new Error('the database has no role "admin"');
          });
        }),
      undo: this.#undoing((found) =>
        this.#inside(found, (db) => undoFilling(db, id, typeof adminId === 'string' ? adminId : undefined)),
      ),
    };
  }

  async #ensureOurs(): Promise<void> {
    const now = await findOperation(this.deps.registry, this.operation.id);
    if (now?.attempts !== this.operation.attempts || now.endedAt !== null) throw new LostOperation();
  }

  #mark(): Step {
    const { cluster } = this.provisioner;
    const change = { database: this.#database, role: this.#role, from: [null, this.#adopted], to: this.#adopted };
    return {
      name: 'mark',
      irrevocable: true,
      settled: async () => (this.row.status === 'provisioning' && (await this.#isMarked()) ? 'done' : 'not-done'),
      do: async () => {
        if (!this.#goesOn) throw new Error('the process that began the operation has ended');
        if (!(await changeMark(cluster, change))) throw new Error('the database carries a mark by now');
      },
      undo: () => this.#giveUp(),
    };
  }

  #activate(): Step {
    const { registry, record } = this.deps;
    return {
      name: 'activate',
      ends: true,
      // The row was read under its lock, and is not active.
      settled: () => Promise.resolve('not-done'),
      do: async () => {
        const status = this.input || (await this.#found())?.open !== false ? 'active' : 'suspended';
        const origin = this.input?.origin ?? originOf(this.operation);
        const active = await activate(registry, this.row, this.operation, origin, record, status);
        if (!active) throw new Error('the row of the new tenant is gone');
        this.input?.made(active);
      },
    };
  }
}

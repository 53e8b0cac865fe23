// The guest of one run on one server: made before its first statement, dropped after its last one, and dropped by a later run if this
// process was killed. Each tenant's database admits it for the one statement:
//
//     absent ── make ──▶ may log in, and may connect nowhere ── admit ──▶ may connect to one database ── statement ── dismiss ──▶ …
//                                                                                                                 └── drop ──▶ absent
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { LockSession } from '../../db/registry/lock-session.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { createGuestRole, endGuestSessions, listGuestRoles, type GuestRole } from '../../db/server/guest-roles.js';
import { findMarks, parseMark } from '../../db/server/marks.js';
import { scramVerifier } from '../../db/server/scram.js';
import { admitGuest, dismissGuest } from '../../db/tenant/guest-rights.js';
import type { OneSession, SessionBounds } from '../../db/driver/one-session.js';
import type { PlacedProvisioner } from '../clusters/provisioners.js';
import { PlainError } from '../jobs/plain-words.js';
import { dropGuest } from '../operations/demolish.js';
import { look, whyLeft } from '../operations/evidence.js';
import { databaseIs } from '../tenants/tenant-states.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';

export interface GuestDeps {
  readonly registry: Kysely<Registry>;
  readonly lockSession: LockSession;
  readonly locks: TenantLocks;
  readonly installation: string;
}

export interface GuestWish {
  /** The id of the run, whose lock this process holds. */
  readonly run: string;
  readonly writes: boolean;
  /** The most statements at once. */
  readonly atOnce: number;
  /** Longest run (ms) of one statement. */
  readonly timeout: number;
  readonly signal: AbortSignal;
}

export interface ServerGuest {
  /** Runs `work` in the database of a tenant as the guest. @throws PlainError if the database is not entered; errors of `work` */
  visit<T>(tenant: TenantRecord, work: (session: OneSession) => Promise<T>): Promise<T>;
  /** @throws the server's error: then a later run drops the guest */
  drop(): Promise<void>;
}

/** The random password of a guest cannot be guessed, so its verifier need not be slow. */
const ITERATIONS = 1;

/** What a person's statement may answer (bytes), in all. */
const MOST_BYTES = 16 * 1024 * 1024;

/** Time (ms) beside the statement: the messages around it, and their way. */
const MARGIN = 2_000;

/**
 * Longest wait (ms) for the locks of a migration, or for a connection of the reserve: a process that was killed holds its slots for half
 * a minute.
 */
const PATIENCE = 45_000;
const PAUSE = 250;

/** The name of the lock that a run holds while it works. */
export function runLockName(run: string): string {
  return `tenantry each ${run}`;
}

/** Makes the guest of a run, after the guests of dead runs were dropped. @throws the server's error */
export async function makeGuest(
  deps: GuestDeps,
  provisioner: PlacedProvisioner,
  wish: GuestWish,
): Promise<ServerGuest> {
  const { cluster, inDatabase } = provisioner;
  await patiently(wish.signal, () => dropLeftGuests(deps, provisioner, wish.run));
  const name = `tenantry_each_${randomBytes(16).toString('hex')}`;
  const password = randomBytes(32).toString('base64url');
  const verifier = await scramVerifier(password, ITERATIONS);
  const guest = { name, run: wish.run };
  const { installation } = deps;
  await createGuestRole(cluster, {
    ...guest,
    installation,
    verifier,
    connectionLimit: wish.atOnce * 2,
    writes: wish.writes,
  });

  async function admitted<T>(
    { dbName: database, dbUser: runtimeRole }: TenantRecord,
    work: (session: OneSession) => Promise<T>,
  ): Promise<T> {
    const bounds: SessionBounds = { deadline: wish.timeout + MARGIN, bytes: MOST_BYTES, signal: wish.signal };
    const { signal, writes } = wish;
    await patiently(signal, () => inDatabase(database, (db) => admitGuest(db, { guest: name, runtimeRole, writes })));
    let [began, ended] = [false, false];
    const begun = (session: OneSession): Promise<T> => {
      began = true;
      return work(session);
    };
    const login = { database, user: name, password, timeout: wish.timeout, ...bounds };
    try {
      const result = await patiently(
        signal,
        () => provisioner.asGuest(login, begun),
        () => !began,
      );
      ended = true;
      return result;
    } finally {
      // A connection that was cut leaves its backend at work. What fails here is done again when the guest is dropped.
      if (!ended) await endGuestSessions(cluster, name, database).catch(() => undefined);
      await patiently(signal, () => inDatabase(database, (db) => dismissGuest(db, { guest: name, runtimeRole }))).catch(
        () => undefined,
      );
    }
  }

  async function enter<T>(tenant: TenantRecord, work: (session: OneSession) => Promise<T>): Promise<T> {
    const seen = await look(provisioner, tenant, installation);
    if (!seen) throw new PlainError('its database does not exist');
    if (seen.verdict === 'newer' || seen.verdict === 'foreign')
      throw new PlainError(`its database is left as it is: ${whyLeft(seen.verdict, seen.found)}`);
    if (databaseIs[tenant.status] === 'open') return admitted(tenant, work);
    return whileOpenToOwner(cluster, tenant.dbName, () => admitted(tenant, work));
  }

  return {
    async visit(tenant, work) {
      if (databaseIs[tenant.status] === 'open') return enter(tenant, work);
      // A closed database is opened under the lock: it may have been resumed, or purged, since it was listed.
      return deps.locks.hold(tenant.id, async () => {
        const now = await findTenant(deps.registry, tenant.id);
        if (!now || databaseIs[now.status] === undefined) throw new PlainError('it was removed meanwhile');
        return enter(now, work);
      });
    },
    drop: () => drop(deps, provisioner, guest),
  };
}

/** Drops the guests whose runs are dead: their processes hold no lock any more. */
async function dropLeftGuests(deps: GuestDeps, provisioner: PlacedProvisioner, own: string): Promise<void> {
  for (const guest of await listGuestRoles(provisioner.cluster, deps.installation)) {
    // This process holds the lock of its own run, so a guest of the same run is of a process that it continues.
    if (guest.run === own) await drop(deps, provisioner, guest);
    else await deps.lockSession.attempt(runLockName(guest.run), () => drop(deps, provisioner, guest));
  }
}

async function drop({ locks }: GuestDeps, provisioner: PlacedProvisioner, guest: GuestRole): Promise<void> {
  const { cluster } = provisioner;
  await dropGuest(provisioner, guest, async (database, work) => {
    const [found] = await findMarks(cluster, [database]);
    if (found?.open !== false) return work();
    const id = parseMark(found.text)?.id;
    if (id === undefined) throw new PlainError('a guest has rights in a closed database without a mark');
    await locks.hold(id, async () => {
      const [again] = await findMarks(cluster, [database]);
      await (again?.open === false ? whileOpenToOwner(cluster, database, work) : work());
    });
  });
}

/**
 * Repeats what found a table locked, or no connection free.
 *
 * @param may false once a repetition could do something twice
 */
async function patiently<T>(signal: AbortSignal, work: () => Promise<T>, may = (): boolean => true): Promise<T> {
  const until = performance.now() + PATIENCE;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      const isBusy = error instanceof DatabaseFault && error.kind === 'busy';
      if (!isBusy || !may() || signal.aborted || performance.now() > until) throw error;
      await sleep(PAUSE);
    }
  }
}

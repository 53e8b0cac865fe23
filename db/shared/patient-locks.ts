// Waits for the locks of a migration, so that the readers and writers of its database hardly wait for the migration.
//
// While an ALTER TABLE waits, PostgreSQL makes every later statement on that table wait too. So while another session keeps its
// locks, as a dump does, the migration waits without a transaction of its own. Then no statement waits for the migration.
//
//     probe (10 ms) ── has its locks ──▶ done
//       └── none ──▶ wait ── no session keeps locks ──▶ attempt (1.5 s) ── has its locks ──▶ done
//                    ▲ └──── after a pause, one does ──▶ probe              │
//                    └─────────────────── none ────────────┴────────────────┘
//
// After the patience there is one more probe or attempt.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql, type Kysely, type RawBuilder } from 'kysely';
import { DatabaseFault, hasSqlState } from '../driver/database-fault.js';
import { withoutDeadline } from '../driver/statement-deadline.js';

/** How long (ms) a migration waits for its locks, all attempts together. */
export const PATIENCE = 20_000;

/** `lock_timeout` (ms) of a probe. Readers wait for each probe: about seven times in the 20 s behind a dump, 70 ms in all. */
const PROBE = 10;

/** `lock_timeout` (ms) of an attempt, which waits for short transactions. Autovacuum makes way after `deadlock_timeout`, 1 s. */
const ATTEMPT = 1_500;

/**
 * `lock_timeout` (ms) outside a transaction. CREATE INDEX CONCURRENTLY waits for every transaction that began before it, and no
 * session waits for it. This limits how long it waits, and not how long it works.
 */
const CONCURRENT_ATTEMPT = 600_000;

/** The pause (ms) after an attempt. It doubles, with jitter. */
const FIRST_PAUSE = 500;

/** Interval (ms) of the looks at locks. */
const LOOK_EVERY = 200;

/** Looks in which a session must have kept locks to count, at most. */
const MOST_LOOKS = 6;

/** Interval (ms) of the looks whether another process still migrates the same database. */
const TURN_EVERY = 100;

/** SQLSTATEs: `lock_timeout` has passed; the migration and a writer waited for each other. */
const LOCK_NOT_AVAILABLE = '55P03';
const DEADLOCK = '40P01';

/** Sessions that an error names, at most. */
const MOST_PIDS = 8;

/** Other sessions kept what a migration needs. The message is for operators, and quotes nothing. */
export class LocksKept extends DatabaseFault {
  constructor(override readonly message: string) {
    super('busy', LOCK_NOT_AVAILABLE, undefined, true);
    this.name = 'LocksKept';
  }
}

/**
 * Runs a transaction that waits only shortly for locks, again and again until it has them.
 *
 * @param patience longest wait (ms)
 * @throws LocksKept after the patience; then nothing has changed
 */
export async function patiently<DB>(
  db: Kysely<DB>,
  patience: number,
  work: (trx: Kysely<DB>) => Promise<void>,
): Promise<void> {
  const keepers = new LockKeepers(db);
  const until = performance.now() + patience;
  let lockTimeout = PROBE;
  for (let tried = 1; ; tried += 1) {
    const isLast = performance.now() >= until;
    try {
      await db.transaction().execute(async (trx) => {
        await setLockTimeout(lockTimeout, true).execute(trx);
        await work(trx);
      });
      return;
    } catch (error) {
      if (!waitedInVain(error)) throw error;
      if (isLast) throw await lastError(error, keepers);
    }
    const pause = FIRST_PAUSE * 2 ** (tried - 1) * (0.5 + Math.random());
    if (lockTimeout === ATTEMPT) {
      keepers.vacuumYields = false;
      // Those that waited behind the attempt go on.
      await sleep(Math.min(pause, until - performance.now()));
    }
    // Each time, only a session that has kept its locks for longer counts. Otherwise transactions of half a second, one after the
    // other, would stop the migration for ever.
    const looks = Math.min(tried + 1, MOST_LOOKS);
    // The session may keep other tables than the migration's: then a probe succeeds.
    lockTimeout = (await keepers.areGone(looks, Math.min(performance.now() + pause, until))) ? ATTEMPT : PROBE;
  }
}

/**
 * Runs statements outside a transaction, such as CREATE INDEX CONCURRENTLY. They wait for older transactions, and no session waits
 * for them, so they have no deadline. They begin when no session keeps locks: during a dump, an index would be built and not finished.
 *
 * @param connection a Kysely over one connection
 * @param work may run more than once
 * @throws LocksKept if a session keeps its locks for the whole patience
 */
export async function patientlyOutside<DB>(
  connection: Kysely<DB>,
  patience: number,
  work: () => Promise<void>,
): Promise<void> {
  const keepers = new LockKeepers(connection);
  const until = performance.now() + patience;
  // A look takes longer than its interval: half of the looks that would fit. A session that came later does not count, because the
  // statements wait for it themselves.
  const wholePatience = Math.ceil(patience / LOOK_EVERY / 2);
  for (let tried = 1; ; tried += 1) {
    if (!(await keepers.areGone(2, until)) && keepers.longest >= wholePatience) throw keepers.error;
    try {
      await setLockTimeout(CONCURRENT_ATTEMPT, false).execute(connection);
      await withoutDeadline(connection, work);
      return;
    } catch (error) {
      if (!waitedInVain(error)) throw error;
      if (performance.now() >= until) throw await lastError(error, keepers);
    } finally {
      await sql`reset lock_timeout`.execute(connection).catch(() => undefined);
    }
    await sleep(FIRST_PAUSE * 2 ** (tried - 1) * (0.5 + Math.random()));
  }
}

/**
 * Takes a session's advisory lock. It looks again and again: a session that waits for the lock in a statement has a snapshot, for
 * which CREATE INDEX CONCURRENTLY of the lock's holder would wait, and the two would wait for each other.
 *
 * @param patience longest wait (ms)
 * @throws LocksKept if another session has the lock for too long
 */
export async function takeTurn<DB>(connection: Kysely<DB>, lock: RawBuilder<unknown>, patience: number): Promise<void> {
  const until = performance.now() + patience;
  for (;;) {
    const { rows } = await sql<{ taken: boolean }>`select pg_try_advisory_lock(${lock}) as taken`.execute(connection);
    if (rows[0]?.taken) return;
    if (performance.now() >= until) throw new LocksKept('another process migrates the database');
    await sleep(TURN_EVERY * (0.5 + Math.random()));
  }
}

function setLockTimeout(ms: number, local: boolean): RawBuilder<unknown> {
  return sql`set ${sql.raw(local ? 'local' : 'session')} lock_timeout to ${sql.lit(ms)}`;
}

function waitedInVain(error: unknown): boolean {
  return hasSqlState(error, LOCK_NOT_AVAILABLE) || hasSqlState(error, DEADLOCK);
}

async function lastError<DB>(error: unknown, keepers: LockKeepers<DB>): Promise<unknown> {
  if (!hasSqlState(error, LOCK_NOT_AVAILABLE)) return error;
  await keepers.look();
  return keepers.error;
}

/** The transactions of other sessions that have locks on tables of the database. Every role may see them. */
class LockKeepers<DB> {
  /**
   * Whether autovacuum is left out, because it makes way for an attempt. It does not if it must prevent a wraparound; another role
   * cannot see which of the two it is, so this is false after an attempt that failed.
   */
  vacuumYields = true;
  /** By transaction: its process, and in how many looks one after the other it had locks. */
  #seen = new Map<string, { readonly pid: number | null; readonly looks: number }>();

  constructor(private readonly db: Kysely<DB>) {}

  /** The number of looks in which the one that is there for longest had locks. */
  get longest(): number {
    return Math.max(0, ...[...this.#seen.values()].map(({ looks }) => looks));
  }

  get error(): LocksKept {
    const kept = [...this.#seen.values()]
      .filter(({ looks }) => looks > 1)
      .sort((one, other) => other.looks - one.looks);
    const pids = kept.flatMap(({ pid }) => pid ?? []).slice(0, MOST_PIDS);
    const who = pids.length === 0 ? 'other sessions' : `other sessions (pid ${pids.join(', ')})`;
    return new LocksKept(`${who} kept tables locked for too long (${LOCK_NOT_AVAILABLE})`);
  }

  /**
   * Waits until no transaction has locks in so many looks one after the other.
   *
   * @param until on `performance.now`
   * @returns false if one still has them then
   */
  async areGone(looks: number, until: number): Promise<boolean> {
    for (let look = 1; ; look += 1) {
      await this.look();
      if (this.longest === 0 || (look >= looks && this.longest < looks)) return true;
      if (performance.now() >= until) return false;
      await sleep(LOOK_EVERY);
    }
  }

  async look(): Promise<void> {
    // Autovacuum is the only process in a database that belongs to no role. Objects of the system have lower oids.
    const { rows } = await sql<{ transaction: string; pid: number | null }>`
      select distinct virtualtransaction as transaction, pid from pg_locks
      where locktype = 'relation' and granted and relation >= 16384
        and database = (select oid from pg_database where datname = current_database())
        and pid is distinct from pg_backend_pid()
        and (not ${this.vacuumYields} or not exists (
          select from pg_stat_activity as session
          where session.pid = pg_locks.pid and datid is not null and usesysid is null))`.execute(this.db);
    this.#seen = new Map(
      rows.map(({ transaction, pid }) => [transaction, { pid, looks: (this.#seen.get(transaction)?.looks ?? 0) + 1 }]),
    );
  }
}

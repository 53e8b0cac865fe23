// What a store of cached answers does. There are two: the memory of this process, and Redis.

/** What a store has of one key. */
export interface Found {
  /** The version of the scope; undefined if it is not known. */
  readonly version: string | undefined;
  /** The entry, as it was filled; undefined if there is none, or if it is of another version. */
  readonly value: string | undefined;
}

/** What a write answered, for the entry of its first scope. */
export interface WrittenEntry {
  readonly entry: string;
  readonly value: string;
  /** ms since before the mark, which count for the time to live. */
  readonly age: number;
}

/**
 * A store has the state of scopes, and entries. A scope is a row or a table of a tenant, and changes with each write:
 *
 *     unknown ── begin ──▶ a random version ── mark ──▶ dirty, marked last by this write ── release of the last mark ──▶ unknown
 *     any state ── release, loss of data, expiry ──▶ unknown
 *     dirty, marked last by this write ── release of the only mark, with an entry ──▶ a random version
 *
 * A write that marked last, and since whose mark nothing else was released, saw in its transaction every write that was
 * acknowledged before its own release: each of them had released before the mark. So what it answers may be read, as if it had
 * been read from the database after the mark.
 *
 * Every method but `lookup` is safe at any time, however late a store executes it: `begin` only makes a version that no entry
 * has, `fill` compares the version, `release` with an entry compares who marked last, and `mark` and `release` otherwise only make
 * entries unreadable. One thing is up to the caller: a mark may be executed late, and so say again that its write marked last. A
 * write releases with an entry only if it sent one mark, and that one was acknowledged before the transaction.
 */
export interface CacheStore {
  /**
   * The server and its life, such as `redis:<run id>:<replication id>`. Undefined while it cannot be used. Each method takes the
   * identity that the caller expects, and rejects if the command may have gone to another server.
   */
  readonly identity: string | undefined;
  /** Reads the version of a scope and an entry, at one moment. */
  lookup(identity: string, scope: string, entry: string): Promise<Found> | Found;
  /** The version of the scope, which is made if it is unknown. Undefined if the scope is dirty. Read the database after this. */
  begin(identity: string, scope: string): Promise<string | undefined>;
  /**
   * Stores an entry, if the scope still has the version.
   *
   * @param age ms since before the database was asked, which count for the time to live
   * @returns whether it was stored
   */
  fill(identity: string, scope: string, version: string, entry: string, value: string, age: number): Promise<boolean>;
  /** Makes scopes dirty until `release`, or until no transaction can be under way any more. */
  mark(identity: string, scopes: readonly string[], token: string): Promise<void>;
  /**
   * Ends a mark. No entry that was filled before this can be read after it, even if the mark was lost.
   *
   * @param written stored as an entry of the first scope, if that scope was not marked or released by another write since the mark
   * @returns whether it was stored
   */
  release(identity: string, scopes: readonly string[], token: string, written?: WrittenEntry): Promise<boolean>;
  close(): void;
}

/** A store failed, or is another one than the caller expected. */
export class CacheStoreError extends Error {
  constructor(reason: string) {
    super(`the cache cannot be used: ${reason}`);
    this.name = 'CacheStoreError';
  }
}

/** How long (ms) a mark without a release lasts: longer than any transaction of a request. */
export const MARK_LASTS = 120_000;

/** How long (ms) a version is kept beyond the time to live of an entry. */
export const VERSION_LASTS = 60_000;

/** The version of a scope while the write of this token marked it last. No entry has it. */
export function dirtyVersion(token: string): string {
  return `!${token}`;
}

export function isDirtyVersion(version: string): boolean {
  return version.startsWith('!');
}

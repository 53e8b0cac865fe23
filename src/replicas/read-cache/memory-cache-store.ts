// Cached answers in the memory of this process, for a service of one replica without Redis.
import { randomUUID } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { recentMap } from '../../lib/recent-map.js';
import {
  CacheStoreError,
  dirtyVersion,
  isDirtyVersion,
  MARK_LASTS,
  type CacheStore,
  type Found,
} from './cache-store.js';

/** The most scopes that have a version. Others are unknown, and get another version. */
const MAX_SCOPES = 100_000;

/** Pause (ms) between two sweeps of the marks. */
const SWEEP_EVERY = 10_000;

/** What an entry takes besides its text, about: the map's own fields and the keys. */
const OVERHEAD = 400;

/** Nothing is known of a scope, or it is dirty. */
const UNKNOWN: Found = { version: undefined, value: undefined };

interface Entry {
  readonly version: string;
  readonly value: string;
}

export interface MemoryCacheStore extends CacheStore {
  /** What the entries take (bytes, about), at most the bound. */
  readonly bytes: number;
  /** Scopes that are marked. */
  readonly marked: number;
}

/**
 * @param replicaId the id of this start of the process
 * @param bounds `ttl` in ms, `bytes` of all entries together
 */
export function createMemoryCacheStore(
  replicaId: string,
  bounds: { readonly ttl: number; readonly bytes: number },
): MemoryCacheStore {
  const own = `memory:${replicaId}`;
  const versions = recentMap<string, string>(MAX_SCOPES);
  /** The marks of each scope, and when each of them ends. */
  const marks = new Map<string, Map<string, number>>();
  const entries = new LRUCache<string, Entry>({
    maxSize: bounds.bytes,
    ttl: bounds.ttl,
    // A character takes one or two bytes.
    sizeCalculation: ({ value }) => OVERHEAD + 2 * value.length,
  });
  let sweptAt = performance.now();
  /** Marks of writes in doubt have no release: without this they would be kept until a request asks for their scope. */
  const sweepMarks = (): void => {
    if (performance.now() - sweptAt < SWEEP_EVERY) return;
    sweptAt = performance.now();
    for (const scope of marks.keys()) isDirty(scope);
  };
  const demandOwn = (identity: string): void => {
    if (identity !== own) throw new CacheStoreError('it belongs to another process');
  };
  const isDirty = (scope: string): boolean => {
    const tokens = marks.get(scope);
    if (!tokens) return false;
    const now = performance.now();
    for (const [token, until] of tokens) if (until <= now) tokens.delete(token);
    if (tokens.size === 0) marks.delete(scope);
    return tokens.size > 0;
  };
  return {
    identity: own,
    get bytes() {
      return entries.calculatedSize;
    },
    get marked() {
      return marks.size;
    },

    lookup(identity, scope, key) {
      demandOwn(identity);
      const version = versions.get(scope);
      if (version === undefined || isDirtyVersion(version)) return UNKNOWN;
      const entry = entries.get(key);
      return { version, value: entry?.version === version ? entry.value : undefined };
    },

    async begin(identity, scope) {
      demandOwn(identity);
      const known = versions.get(scope);
      if (isDirty(scope)) return undefined;
      if (known !== undefined && !isDirtyVersion(known)) return known;
      const version = randomUUID();
      versions.set(scope, version);
      return version;
    },

    async fill(identity, scope, version, key, value, age) {
      demandOwn(identity);
      const ttl = Math.floor(bounds.ttl - age);
      if (ttl <= 0 || versions.get(scope) !== version) return false;
      entries.set(key, { version, value }, { ttl });
      return true;
    },

    async mark(identity, scopes, token) {
      demandOwn(identity);
      sweepMarks();
      for (const scope of scopes) {
        versions.set(scope, dirtyVersion(token));
        const tokens = marks.get(scope) ?? new Map<string, number>();
        marks.set(scope, tokens.set(token, performance.now() + MARK_LASTS));
      }
    },

    async release(identity, scopes, token, written) {
      demandOwn(identity);
      const [first] = scopes;
      const isLast = first !== undefined && versions.get(first) === dirtyVersion(token);
      for (const scope of scopes) {
        versions.delete(scope);
        const tokens = marks.get(scope);
        tokens?.delete(token);
        if (tokens?.size === 0) marks.delete(scope);
      }
      const ttl = written ? Math.floor(bounds.ttl - written.age) : 0;
      if (!isLast || !written || ttl <= 0 || isDirty(first)) return false;
      const version = randomUUID();
      versions.set(first, version);
      entries.set(written.entry, { version, value: written.value }, { ttl });
      return true;
    },

    close() {
      entries.clear();
      versions.clear();
      marks.clear();
    },
  };
}

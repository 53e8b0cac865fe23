// A store of cached answers that breaks a promise, so that a test sees what it would do.
import type { CacheStore } from '../../src/replicas/read-cache/cache-store.js';

/** A store that stores the answer of a write without a look at what came since its mark. */
export function careless(store: CacheStore): CacheStore {
  return {
    ...store,
    get identity() {
      return store.identity;
    },
    release: async (identity, scopes, token, written) => {
      await store.release(identity, scopes, token);
      const [scope = ''] = scopes;
      const version = await store.begin(identity, scope);
      if (!written || version === undefined) return false;
      return store.fill(identity, scope, version, written.entry, written.value, written.age);
    },
  };
}

// Object.freeze for a whole tree, so that no part of the service can change the configuration of another part.
import { KeyObject } from 'node:crypto';

/** Freezes the object and every object in it, and returns it. Buffers and keys are left as they are. */
export function deepFreeze<T extends object>(value: T): T {
  for (const child of Object.values(value) as unknown[]) {
    // JavaScript cannot freeze a Buffer. A KeyObject never changes, but caches its own properties and must stay writable.
    const leaf = typeof child !== 'object' || child === null || Buffer.isBuffer(child) || child instanceof KeyObject;
    if (!leaf) deepFreeze(child);
  }
  return Object.freeze(value);
}

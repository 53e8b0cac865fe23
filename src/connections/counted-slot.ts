// One slot of a connection governor, from the moment it is taken: its state, counted for its tenant and for the whole server.
//
// `used` counts all slots but the free ones; `closing` and `unknown` count those in that state.
//
//     free ── taken ──▶ open ── its connection is asked to close ──▶ closing
//     open, closing ── the backend is gone (release) ──▶ free
//     open, closing ── the connection has closed, and the backend may live on (orphan) ──▶ unknown
//     unknown ── the backend is seen gone (src/connections/backends.ts) ──▶ free
import type { Slot } from '../../db/driver/pool/slot.js';
import type { Backend } from './backends.js';

/** Slots by their state. */
export interface SlotCounts {
  used: number;
  /** Of those, how many belong to connections that were asked to close. */
  closing: number;
  /** Of those, how many belong to backends that may live on. */
  unknown: number;
}

type State = 'free' | 'open' | 'closing' | 'unknown';

export function noSlots(): SlotCounts {
  return { used: 0, closing: 0, unknown: 0 };
}

/**
 * Takes a slot.
 *
 * @param counts every count that the slot is part of
 * @param backend finds out when a backend that may live on is gone; without it such a slot is free at once
 * @param on `freed`: the slot is free, and counted so. `unknown`: the slot does not come back soon
 */
export function takeSlot(
  counts: readonly SlotCounts[],
  backend: Backend | undefined,
  on: { readonly freed: () => void; readonly unknown: () => void },
): Slot {
  let state: State = 'free';

  /** Each connection is counted once in each state, however often it is asked to close. */
  function become(next: State): void {
    const by = (isCounted: (state: State) => boolean): number => Number(isCounted(next)) - Number(isCounted(state));
    for (const count of counts) {
      count.used += by((one) => one !== 'free');
      count.closing += by((one) => one === 'closing');
      count.unknown += by((one) => one === 'unknown');
    }
    state = next;
  }

  function free(): void {
    become('free');
    on.freed();
  }

  become('open');
  return {
    reached(pid) {
      backend?.reached(pid);
    },
    closing() {
      if (state === 'open') become('closing');
    },
    release() {
      if (state !== 'open' && state !== 'closing') return;
      backend?.gone();
      free();
    },
    orphan(freed) {
      if (state !== 'open' && state !== 'closing') return;
      become('unknown');
      const seenGone = (): void => {
        if (state !== 'unknown') return;
        free();
        freed();
      };
      if (!backend) {
        seenGone();
        return;
      }
      on.unknown();
      backend.lost(seenGone);
    },
  };
}

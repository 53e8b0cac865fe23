// One slot of a connection governor, from the moment it is taken. Its state is counted for its tenant and for the whole server.
//
// `used` counts every slot that is not free; `closing` and `unknown` count the slots in that state.
//
//     free ── taken ──▶ open ── its connection is asked to close ──▶ closing
//     open, closing ── the backend is gone (release) ──▶ free
//     open, closing ── the connection has closed, and the backend may live on (orphan) ──▶ unknown
//     unknown ── a look finds the backend gone (src/connections/backends.ts) ──▶ free
import type { Slot } from '../../db/driver/pool/slot.js';
import type { Backend } from './backends.js';

/** Slots by their state. */
export interface SlotCounts {
  used: number;
  /** Slots in use whose connection was asked to close. */
  closing: number;
  /** Slots in use whose backend may live on. */
  unknown: number;
}

type State = 'free' | 'open' | 'closing' | 'unknown';

export function noSlots(): SlotCounts {
  return { used: 0, closing: 0, unknown: 0 };
}

/**
 * Takes a slot.
 *
 * @param counts every count that includes the slot
 * @param backend finds out when a backend that may live on is gone; without it such a slot is free at once
 * @param on `freed`: the slot is free and no longer counted. `unknown`: the slot will not be free soon
 */
export function takeSlot(
  counts: readonly SlotCounts[],
  backend: Backend | undefined,
  on: { readonly freed: () => void; readonly unknown: () => void },
): Slot {
  let state: State = 'free';

  /** A connection may be asked to close several times, and is still counted once in each state. */
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

// Tracks the backends of one server that may live on after their connection has closed. Examples are a COMMIT that waits for a
// standby, a stopped process, and a network that lost the end of the connection. Looks at the server find out when each is gone.
//
// A backend, from here:
//
//     tracked ── reports its pid (reached) ──▶ live ── gone ──▶ forgotten
//     tracked, live ── lost ──▶ unknown (with its pid, or without a pid if the handshake was cut)
//     unknown ── freed ──▶ forgotten
//
// An unknown backend with a pid is freed
//   - by a look that began after the loss and finds no session of this replica with that pid, or
//   - when a connection of this replica has that pid: the server has given the pid to another process, or
//   - when the server has restarted since an earlier look, if that look was answered after the loss.
// An unknown backend without a pid is freed by a look that asks twice, AGAIN_AFTER apart. It is freed if each session in both
// answers belongs to a connection of this replica or to another unknown backend. PostgreSQL accepts connections in their order.
// So a server that answers has already accepted the cut connection; its backend reads the end of the stream and exits. A backend
// that stays is found by its session.
//
// While the server cannot be asked, every unknown backend stays unknown. Looks begin at least LOOK_EVERY apart, one at a time,
// and only while a backend is unknown.
import type { ServerSession, ServerSessions } from '../../db/server/server-sessions.js';

/** One backend, from the time before its connection is opened. */
export interface Backend {
  /** The backend has reported its process id. */
  reached(pid: number): void;
  /** Nothing is left of the backend. */
  gone(): void;
  /**
   * The connection has closed, and the backend may live on.
   *
   * @param freed called once, when nothing is left of the backend
   */
  lost(freed: () => void): void;
}

export interface Backends {
  track(): Backend;
  /** Ends the looks: unknown backends stay unknown. */
  stop(): void;
}

/** How this replica sees its own sessions on the server. */
export interface Look {
  /** Undefined if there is no way to ask. Must settle by a deadline. @throws DatabaseFault if the server does not answer */
  sessions(): Promise<ServerSessions | undefined>;
  /** Ends sessions that are idle. @throws DatabaseFault, or the server's error */
  endIdle(sessions: readonly ServerSession[]): Promise<void>;
}

/** Time (ms) between the beginnings of two looks. */
const LOOK_EVERY = 1_000;

/** Time (ms) from a loss to the first look. Most backends notice a closed socket at once, and losses come together. */
const FIRST_LOOK_AFTER = 50;

/** Time (ms) between the two questions of one look. */
const AGAIN_AFTER = 100;

/**
 * If no role can ask a server, an unknown backend counts for this long (ms). It is PostgreSQL's own bound on a handshake, and the
 * bound on a statement of a tenant's role.
 */
const UNSEEN_FOR = 60_000;

interface Unknown {
  pid: number | undefined;
  readonly since: number;
  readonly freed: () => void;
  /** Whether a look has been answered since the loss. */
  seen: boolean;
}

export function createBackends(look: Look, onError: (error: unknown) => void = () => undefined): Backends {
  const live = new Set<number>();
  const unknown = new Set<Unknown>();
  let startedAt: string | undefined;
  let lookedAt = -Infinity;
  let timer: NodeJS.Timeout | undefined;
  let looking = false;
  let failing = false;
  let stopped = false;

  function free(lost: Unknown): void {
    if (unknown.delete(lost)) lost.freed();
  }

  function lookSoon(): void {
    if (timer || looking || stopped || unknown.size === 0) return;
    const wait = Math.max(FIRST_LOOK_AFTER, lookedAt + LOOK_EVERY - performance.now());
    timer = setTimeout(() => {
      timer = undefined;
      looking = true;
      void takeLook().finally(() => {
        looking = false;
        lookSoon();
      });
    }, wait).unref();
  }

  async function takeLook(): Promise<void> {
    lookedAt = performance.now();
    // A backend that is lost from here on may be missing in the answer although it lives.
    const lost = [...unknown];
    try {
      const first = await look.sessions();
      if (!first) {
        for (const one of lost) if (lookedAt - one.since >= UNSEEN_FOR) free(one);
        return;
      }
      judge(first, lost);
      failing = false;
      if (!lost.some((one) => unknown.has(one))) return;
      await endIdle(first, lost).catch(onError);
      await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER).unref());
      const second = await look.sessions();
      if (!second) return;
      judge(second, lost);
      judgeHandshakes(first, second, lost);
    } catch (error) {
      if (!failing && !stopped) onError(error);
      failing = true;
    }
  }

  function judge(answer: ServerSessions, lost: readonly Unknown[]): void {
    const pids = new Set(answer.sessions.map(({ pid }) => pid));
    const restarted = startedAt !== undefined && startedAt !== answer.startedAt;
    startedAt = answer.startedAt;
    for (const one of lost) {
      if (restarted && one.seen) free(one);
      else if (one.pid !== undefined && (!pids.has(one.pid) || live.has(one.pid))) free(one);
      one.seen = true;
    }
  }

  function judgeHandshakes(first: ServerSessions, second: ServerSessions, lost: readonly Unknown[]): void {
    const known = new Set([...unknown].map(({ pid }) => pid));
    const before = new Set(first.sessions.map(({ pid }) => pid));
    const strangers = second.sessions.filter(({ pid }) => before.has(pid) && !live.has(pid) && !known.has(pid));
    for (const one of lost) {
      if (one.pid !== undefined || !unknown.has(one)) continue;
      const stranger = strangers.pop();
      // The session may be this backend. If it is a connection that has not reported its pid yet, `reached` frees the backend.
      if (stranger) one.pid = stranger.pid;
      else free(one);
    }
  }

  /** An idle session whose client is gone would otherwise stay until the server notices that, which the network can delay. */
  async function endIdle({ sessions }: ServerSessions, lost: readonly Unknown[]): Promise<void> {
    const pids = new Set(lost.filter((one) => unknown.has(one)).map(({ pid }) => pid));
    const idle = sessions.filter(({ pid, idle }) => idle && pids.has(pid) && !live.has(pid));
    if (idle.length > 0) await look.endIdle(idle);
  }

  return {
    track() {
      let own: number | undefined;
      const forget = (): void => {
        if (own !== undefined) live.delete(own);
      };
      return {
        reached(pid) {
          own = pid;
          live.add(pid);
          for (const one of unknown) if (one.pid === pid) free(one);
        },
        gone: forget,
        lost(freed) {
          forget();
          unknown.add({ pid: own, since: performance.now(), freed, seen: false });
          lookSoon();
        },
      };
    },

    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}

// Acts on the registry with an Idempotency-Key: an act that is requested twice with one key happens once.
//
//     answered before? ── yes ──> the stored answer
//        └ no ─> lock of the key? ── no ──> 409 at once
//                   └ yes ─> act committed? ── yes ──> its operation ends, replicas are notified, the answer is made again
//                               └ no ─> the act, which records the request in its own transaction ─> store the answer ─> answer
//
// The lock is free when its process dies, or its connection is lost. The recorded request then decides: of two attempts only one
// commits (src/audit/operator-act.ts). A committed act is never done again. An error before the act leaves nothing, so the key is
// free. An act that changes nothing records nothing until its answer is stored.
import type { Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LockSession } from '../../db/registry/lock-session.js';
import { findOperation } from '../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  findRequest,
  hasTooManyRequests,
  storeRequestAnswer,
  type CommittedRequest,
  type SentAnswer,
} from '../../db/registry/request-answers.js';
import type { RequestClaim } from '../../db/shared/audit-rows.js';
import { AppError } from '../errors.js';
import { within } from '../lib/deadline.js';
import type { Change } from '../replicas/events.js';
import { idOfRequest, type ContentHash, type KeyedRequest } from '../tenants/keyed-write.js';
import { unfinished } from './runner/answering.js';
import type { OperationTimes } from './runner/operation-times.js';
import type { Runner } from './runner/runner.js';

export interface KeyedActs {
  /**
   * @param tenantId the tenant of the caller; undefined for an operator
   * @throws AppError `idempotency-key-in-use`, `idempotency-key-reused`, `too-many-idempotency-keys`
   */
  begin(
    request: KeyedRequest,
    content: ContentHash,
    tenantId: string | undefined,
  ): Promise<{ readonly answer: SentAnswer } | KeyedAct>;
}

/** A request that has the lock of its key. */
export interface KeyedAct {
  /** For the transaction of the act, as a part of its origin. */
  readonly claim: RequestClaim;
  /** If an earlier attempt has committed the act. */
  readonly committed?: CommittedAct;
  store(answer: SentAnswer): Promise<void>;
  /** Frees the lock, and resolves when it is free. Safe to call again. Never rejects. */
  release(): Promise<void>;
}

export interface CommittedAct {
  /** The id of what the act changed. */
  readonly targetId: string;
  /**
   * Resolves when the act is effective everywhere.
   *
   * @throws AppError `operation-unfinished`; `idempotency-key-reused` if the operation of the act was undone or abandoned
   */
  effective(): Promise<void>;
}

/** Requests that are recorded at once: of all operators together, and of the users of one tenant, who can only rename it. */
const MOST = { operators: 100_000, tenant: 100 };

const OPERATORS = '00000000-0000-0000-0000-000000000000';

/** ms. */
const LOOK_EVERY = 200;

export function createKeyedActs(deps: {
  readonly registry: Kysely<Registry>;
  readonly locks: Pick<LockSession, 'attempt'>;
  readonly runner: Pick<Runner, 'settle'>;
  /** Resolves when every replica knows the change. */
  readonly publish: (change: Change) => Promise<void>;
  /** Reads the clusters again, after a change of one. */
  readonly refreshClusters: () => Promise<void>;
  readonly times: Pick<OperationTimes, 'repeatDeadline'>;
}): KeyedActs {
  const { registry, locks, runner, publish, times } = deps;

  async function find(id: Buffer, { matches }: ContentHash): Promise<CommittedRequest | undefined> {
    const known = await findRequest(registry, id);
    if (known && !matches(known.requestHash)) throw new AppError('idempotency-key-reused');
    return known;
  }

  /** @returns how to free the lock; undefined if another request holds it */
  function lock(id: Buffer): Promise<(() => Promise<void>) | undefined> {
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    return new Promise((resolve, reject) => {
      const held = locks.attempt(`tenantry request ${id.toString('base64url')}`, async () => {
        resolve(async () => {
          release();
          await held.catch(() => undefined);
        });
        await released;
      });
      held.then((ran) => {
        if (!ran) resolve(undefined);
      }, reject);
    });
  }

  async function ended(operationId: string): Promise<void> {
    const operation = await findOperation(registry, operationId);
    if (operation?.endedAt === null) {
      const end = new AbortController();
      await within(untilEnded(operation, end.signal), times.repeatDeadline, () => unfinished(operationId)).finally(
        () => {
          end.abort();
        },
      );
    }
    const state = (await findOperation(registry, operationId))?.state;
    if (state === 'undone' || state === 'abandoned')
      throw new AppError('idempotency-key-reused', {
        detail: `The operation ${operationId}, which was begun with this key, was ${state}. Use a new key.`,
      });
  }

  async function untilEnded(
    { id, subject, kind }: { readonly id: string; readonly subject: string; readonly kind: string },
    signal: AbortSignal,
  ): Promise<void> {
    await runner.settle(subject, kind);
    while (!signal.aborted) {
      const now = await findOperation(registry, id);
      if (now?.endedAt !== null) return;
      if (now.state === 'needs-person') throw unfinished(id);
      await sleep(LOOK_EVERY);
    }
  }

  async function effective({ tenantId, clusterId, operationId }: CommittedRequest): Promise<void> {
    if (operationId !== null) await ended(operationId);
    if (tenantId !== null) await publish({ kind: 'tenant', tenantId });
    if (clusterId !== null) {
      await publish({ kind: 'cluster', clusterId });
      await deps.refreshClusters();
    }
  }

  return {
    async begin(request, content, tenantId) {
      const id = idOfRequest(request);
      const answered = await find(id, content);
      if (answered?.answer) return { answer: answered.answer };
      const release = await lock(id);
      if (!release) throw new AppError('idempotency-key-in-use', { retryAfter: 1 });
      try {
        const known = await find(id, content);
        if (known?.answer) {
          await release();
          return { answer: known.answer };
        }
        const owner = tenantId ?? OPERATORS;
        const most = tenantId === undefined ? MOST.operators : MOST.tenant;
        if (!known && (await hasTooManyRequests(registry, owner, most)))
          throw new AppError('too-many-idempotency-keys', { retryAfter: 60 });
        const { requestHash, claim } = known ?? { requestHash: content.hash, claim: randomUUID() };
        const recorded = { id, owner, requestHash, claim };
        return {
          claim: recorded,
          ...(known?.targetId && { committed: { targetId: known.targetId, effective: () => effective(known) } }),
          store: (answer) => storeRequestAnswer(registry, recorded, answer),
          release,
        };
      } catch (error) {
        await release();
        throw error;
      }
    },
  };
}

// The steps of admission: the checks that a request passes before it is served. Each step belongs to the plugin that owns its
// rule; plugins/caller/admission.ts lists the steps.
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';

/**
 * Makes a Kysely over a connection that the request already holds, to the database of the caller's account. This is the tenant's
 * database for a user, and the registry for an operator.
 */
export type Held = () => Kysely<TenantDatabase> | Kysely<Registry>;

/**
 * Returns to pass, and throws or rejects to refuse. A step returns a promise only if it must wait: a promise for each request
 * would cost more than the step.
 *
 * @param reply undefined when the steps run again
 * @param held given while the request holds a connection: a step reads uncached values there, and takes no second connection
 */
export type AdmissionStep = (
  request: FastifyRequest,
  reply: FastifyReply | undefined,
  held: Held | undefined,
) => Promise<void> | undefined;

/** The steps, in the order in which they run. The plugin that owns the rule sets the step. */
export interface AdmissionSteps {
  /** Refuses a head that two servers could interpret differently. */
  head: AdmissionStep;
  /** Sets `request.principal` from the access token; refuses a kind of caller that the route's scope does not allow. */
  token: AdmissionStep;
  /** Sets `request.tenant`; refuses a tenant that is not served. */
  tenant: AdmissionStep;
  /** Refuses a session that has ended. */
  session: AdmissionStep;
  /** Takes one request from the caller's rate. */
  userRate: AdmissionStep;
  /** Takes one request from the tenant's rate. */
  tenantRate: AdmissionStep;
  /** Sets `request.standing`; refuses an account that is not active, or that lacks the route's permission. */
  permission: AdmissionStep;
  /** Refuses a caller who has not proved its password recently, if the route demands it. */
  recent: AdmissionStep;
}

/** Whether the request changes nothing: a GET, or a HEAD, which is a GET without the body of the answer. */
export function isRead({ method }: Pick<FastifyRequest, 'method'>): boolean {
  return method === 'GET' || method === 'HEAD';
}

/** Runs the steps in order, from the step at `index`. Calls `done` before it returns, unless a step must wait. */
export function runSteps(
  steps: readonly AdmissionStep[],
  request: FastifyRequest,
  { reply, held }: { readonly reply?: FastifyReply | undefined; readonly held?: Held | undefined },
  done: (error?: Error) => void,
  index = 0,
): void {
  let next = index;
  try {
    for (const step of index === 0 ? steps : steps.slice(index)) {
      next += 1;
      const waiting = step(request, reply, held);
      if (!waiting) continue;
      waiting.then(() => {
        runSteps(steps, request, { reply, held }, done, next);
      }, done);
      return;
    }
  } catch (error) {
    done(error as Error);
    return;
  }
  // Outside the try: this function must not answer the error of a later hook.
  done();
}

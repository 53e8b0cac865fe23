// Steps of admission: what a request must pass before it is served. Each step belongs to the plugin that owns its rule;
// plugins/caller/admission.ts lists the steps.
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';

/**
 * Makes a Kysely over a connection that the request already holds, to the database of its caller's account: the tenant's for
 * a user, the registry for an operator.
 */
export type Held = () => Kysely<TenantDatabase> | Kysely<Registry>;

/**
 * Passes by returning, and refuses by throwing or rejecting. A step returns a promise only if it has to wait: a promise for
 * each request would cost more than the step.
 *
 * @param reply undefined when the steps run again
 * @param held given while the request holds a connection: a step reads there what is not known, and takes no second connection
 */
export type AdmissionStep = (
  request: FastifyRequest,
  reply: FastifyReply | undefined,
  held: Held | undefined,
) => Promise<void> | undefined;

/** The steps, in the order in which they run. Each is set by the plugin that owns its rule. */
export interface AdmissionSteps {
  /** Refuses a head that two servers could read in two ways. */
  head: AdmissionStep;
  /** From the access token to `request.principal`; refuses a kind of caller that the route's scope does not admit. */
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
}

/** Whether the request changes nothing: a GET, or a HEAD, which is a GET without the body of the answer. */
export function isRead({ method }: FastifyRequest): boolean {
  return method === 'GET' || method === 'HEAD';
}

/** Runs the steps in their order, from the one at `index`. Calls `done` before it returns, unless a step has to wait. */
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
  // Outside the try: an error that a later hook throws is not this one's to answer.
  done();
}

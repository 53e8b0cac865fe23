// Steps of admission: what a request must pass before it is served. Each step belongs to the plugin that owns its rule;
// plugins/admission.ts lists the steps.
import type { FastifyReply, FastifyRequest } from 'fastify';

/**
 * Passes by returning, and refuses by throwing or rejecting. A step returns a promise only if it has to wait: a promise for
 * each request would cost more than the step.
 */
export type AdmissionStep = (request: FastifyRequest, reply: FastifyReply) => Promise<void> | undefined;

/** Runs the steps in their order, from the one at `index`. Calls `done` before it returns, unless a step has to wait. */
export function runSteps(
  steps: readonly AdmissionStep[],
  request: FastifyRequest,
  reply: FastifyReply,
  done: (error?: Error) => void,
  index = 0,
): void {
  let next = index;
  try {
    for (const step of index === 0 ? steps : steps.slice(index)) {
      next += 1;
      const waiting = step(request, reply);
      if (!waiting) continue;
      waiting.then(() => {
        runSteps(steps, request, reply, done, next);
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

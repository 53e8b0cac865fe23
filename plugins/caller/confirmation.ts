// Recent sign-in: refuses an act that gives away everything if the caller has not proved its password recently. A route declares
// this as `recent` in its access. A handler checks it itself if only some of its requests need it.
import fp from 'fastify-plugin';
import { confirmationNeeded, isRecent } from '../../src/auth/recent-sign-in.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Whether the caller has proved its password recently. Always false on a route that does not declare `recent`. */
    readonly isRecent: boolean;
    /** @throws AppError `confirmation-needed` unless `isRecent` */
    readonly refuseUnlessRecent: () => void;
  }
}

export const recentSignIn = fp(
  async (app) => {
    const { replicaClock } = app.engine;
    app.decorateRequest('isRecent', {
      getter() {
        return this.routeOptions.config.access?.recent !== undefined && isRecent(this.signedInAt, replicaClock.now());
      },
    });
    app.decorateRequest('refuseUnlessRecent', function () {
      if (!this.isRecent) throw confirmationNeeded();
    });
    app.steps.recent = (request) => {
      if (request.routeOptions.config.access?.recent === true) request.refuseUnlessRecent();
      return undefined;
    };
  },
  { name: 'recent-sign-in', fastify: '5.x', dependencies: ['authentication'] },
);

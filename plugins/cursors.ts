// Signed cursors for lists.
import fp from 'fastify-plugin';
import { createCursors, type Cursors } from '../src/cursor.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly cursors: Cursors;
  }
}

export const cursors = fp<{ secret: string }>(
  async (app, { secret }) => {
    app.decorate('cursors', createCursors(secret));
  },
  { name: 'cursors', fastify: '5.x' },
);

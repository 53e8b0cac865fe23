// Signed cursors for lists.
import fp from 'fastify-plugin';
import { createCursors, type Cursors } from '../src/cursor.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly cursors: Cursors;
  }
}

export const cursors = fp<{ secrets: readonly Buffer[] }>(
  async (app, { secrets }) => {
    app.decorate('cursors', createCursors(secrets));
  },
  { name: 'cursors', fastify: '5.x' },
);

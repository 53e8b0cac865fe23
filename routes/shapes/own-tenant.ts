// Restricts a user to its own tenant.
import type { FastifyRequest } from 'fastify';
import { AppError } from '../../src/errors.js';

/** @throws AppError `not-found` if a user asks for another tenant: for a user no other tenant exists */
export function hideOthers(request: FastifyRequest, id: string): void {
  if (request.principal?.kind === 'user' && request.tenantId !== id)
    throw new AppError('not-found', { event: { name: 'tenant-mismatch' } });
}

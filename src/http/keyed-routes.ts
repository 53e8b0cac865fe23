// The routes whose writes honour an Idempotency-Key by their scope (plugins/caller/idempotency.ts).
import type { RouteOptions } from 'fastify';
import { isRead } from './admission-steps.js';

export function isKeyed({ config, method }: Pick<RouteOptions, 'config' | 'method'>): boolean {
  return config?.access?.scope === 'tenant' && ![method].flat().every((one) => isRead({ method: one }));
}

// The routes whose writes honour an Idempotency-Key by their scope (plugins/caller/idempotency.ts).
import type { RouteOptions } from 'fastify';

export function isKeyed({ config, method }: Pick<RouteOptions, 'config' | 'method'>): boolean {
  const reads = [method].flat().every((one) => one === 'GET' || one === 'HEAD');
  return config?.access?.scope === 'tenant' && !reads;
}

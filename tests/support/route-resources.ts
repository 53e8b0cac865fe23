// What tests must know about each resource to use its routes. Tests that look at every route fail for a route that is not here.
import { ADMIN, type TestTenant } from './service.js';

/** The tenant of a target. */
export interface ResourceTenant extends Pick<TestTenant, 'id' | 'adminId'> {
  /** Begins a session of its admin, and returns the session's id. */
  readonly beginSession: () => Promise<string>;
}

export interface Resource {
  /** A valid body for POST, in which every text contains the label. Without it nothing can be made: `id` gives the target. */
  readonly make?: (label: string) => Record<string, unknown>;
  readonly id?: (tenant: ResourceTenant) => string | Promise<string>;
  /** Valid bodies of its other routes; null if a route takes none. */
  readonly bodies?: Readonly<Record<string, Record<string, unknown> | null>>;
}

/** One line for each resource, by the first part of its routes' path. */
export const resources: Readonly<Record<string, Resource>> = {
  '/auth': {
    // The target is a session.
    id: (tenant) => tenant.beginSession(),
    bodies: {
      'POST /logout': null,
      'POST /logout-all': null,
      'POST /confirm': { password: ADMIN.password },
      'POST /password': { currentPassword: ADMIN.password, newPassword: ADMIN.password },
    },
  },
  '/clusters': {
    // For operators only: a tenant's user is refused by scope, with any id.
    id: (tenant) => tenant.id,
    bodies: {
      'POST /:id/check': null,
      'POST /:id/drain': null,
      'PATCH /:id': { weight: 1 },
      'POST /': { name: 'New' },
    },
  },
  '/operators': {},
  '/audit': { id: (tenant) => tenant.adminId },
  '/pools': {},
  '/encryption': {},
  '/status': {},
  '/operations': {
    // For operators only: a tenant's user is refused by scope, with any id.
    id: (tenant) => tenant.id,
    bodies: { 'POST /:id/retry': null, 'POST /:id/abandon': null },
  },
  '/rollouts': {
    // For operators only: a tenant's user is refused by scope, with any id.
    id: (tenant) => tenant.id,
    bodies: {
      'POST /': { budget: 1 },
      'POST /:id/pause': null,
      'POST /:id/resume': null,
      'POST /:id/retry': null,
      'POST /:id/abort': null,
    },
  },
  '/tenants': {
    id: (tenant) => tenant.id,
    bodies: {
      'PATCH /:id': { name: 'Renamed' },
      'POST /': { name: 'New', admin: {} },
      'POST /:id/sign-out': null,
      'POST /:id/suspend': null,
      'POST /:id/resume': null,
      'POST /:id/restore': null,
      'POST /:id/purge': null,
      'POST /:id/rotate-password': null,
    },
  },
  '/users': {
    make: (label) => ({
      email: `${label}@example.com`,
      password: 'user-password-123',
      firstName: label,
      lastName: label,
    }),
    bodies: { 'PATCH /:id': { firstName: 'Changed' } },
  },
  '/roles': {
    make: (label) => ({ name: label, permissions: ['products:read'] }),
    bodies: { 'PATCH /:id': { description: 'Changed' } },
  },
  '/products': {
    make: (label) => ({ name: label, price: '9.99', sku: label, category: label }),
    bodies: { 'PATCH /:id': { name: 'Changed' }, 'POST /:id/stock': { delta: 1 } },
  },
};

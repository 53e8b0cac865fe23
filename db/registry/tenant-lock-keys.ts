// The lock of a tenant. A worker holds it while it makes, changes or removes the tenant's database (db/registry/lock-session.ts).

/** The name of the tenant's lock. Every build uses the same one. */
export function tenantLockName(id: string): string {
  return `tenantry tenant ${id}`;
}

// The tenants that this replica does not serve because of their database's schema. Each is reported once when that begins, and
// once when it ends, however many requests there are.
import type { FoundSchema } from '../../db/tenant/served-schemas.js';
import { AppError } from '../errors.js';

/** Called when a tenant is no longer served because of its `schema`, and without a schema when it is served again. */
export type OnSchemaChange = (tenantId: string, schema: FoundSchema | undefined) => void;

export interface SchemaRefusals {
  /** Returns the error for the request. */
  refused(tenantId: string, schema: FoundSchema): AppError;
  served(tenantId: string): void;
}

/** In seconds. A tenant is served again within about a second after its migration. */
const RETRY_AFTER = 5;

/** Tenants that are remembered. A forgotten tenant is reported again. */
const MAX_REMEMBERED = 20_000;

export function createSchemaRefusals(onChange: OnSchemaChange): SchemaRefusals {
  const refused = new Set<string>();
  return {
    refused(tenantId, schema) {
      if (!refused.has(tenantId)) {
        if (refused.size >= MAX_REMEMBERED) refused.clear();
        refused.add(tenantId);
        onChange(tenantId, schema);
      }
      return new AppError('tenant-upgrading', { retryAfter: RETRY_AFTER });
    },

    served(tenantId) {
      if (refused.delete(tenantId)) onChange(tenantId, undefined);
    },
  };
}

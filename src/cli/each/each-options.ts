// The options of `tenantry each`.
import type { TenantStatus } from '../../../db/registry/registry-schema.js';

export interface EachOptions {
  readonly tenants?: readonly string[];
  readonly status: readonly TenantStatus[];
  readonly cluster?: string;
  readonly atOnce?: number;
  readonly limitRows: number;
  readonly timeout: number;
  readonly write?: boolean;
  readonly file?: string;
  readonly output?: string;
  readonly resume?: string;
}

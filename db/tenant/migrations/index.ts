// The tenant databases' migrations, listed by hand: a static list is the same in source, build and tests.
import type { Migrations } from '../../shared/migration-types.js';
import { sealed } from '../../shared/sealed-migrations.js';
import { hashes } from './tenant-hashes.js';
import * as m0001 from './0001_identity.js';
import * as m0002 from './0002_products.js';
import * as m0003 from './0003_sessions.js';
import * as m0004 from './0004_permissions.js';
import * as m0005 from './0005_audit.js';
import * as m0006 from './0006_claim.js';
import * as m0007 from './0007_session_generations.js';
import * as m0008 from './0008_schema_version.js';
import * as m0009 from './0009_schema_needs.js';
import * as m0011 from './0011_idempotency_keys.js';
import * as m0013 from './0013_fast_lists.js';
import * as m0014 from './0014_times_in_range.js';
import * as m0015 from './0015_audit_order.js';
import * as m0016 from './0016_audit_order_index.js';
import * as m0017 from './0017_audit_stamp.js';

const migrations = {
  '0001_identity': m0001,
  '0002_products': m0002,
  '0003_sessions': m0003,
  '0004_permissions': m0004,
  '0005_audit': m0005,
  '0006_claim': m0006,
  '0007_session_generations': m0007,
  '0008_schema_version': m0008,
  '0009_schema_needs': m0009,
  '0011_idempotency_keys': m0011,
  '0013_fast_lists': m0013,
  '0014_times_in_range': m0014,
  '0015_audit_order': m0015,
  '0016_audit_order_index': m0016,
  '0017_audit_stamp': m0017,
};

export const tenantMigrations: Migrations = sealed(migrations, hashes);

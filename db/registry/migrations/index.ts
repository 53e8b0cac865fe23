// The registry's migrations, listed by hand: a static list is the same in source, build and tests.
import type { Migrations } from '../../shared/migration-types.js';
import { sealed } from '../../shared/sealed-migrations.js';
import { hashes } from './registry-hashes.js';
import * as m0001 from './0001_registry.js';
import * as m0002 from './0002_events.js';
import * as m0003 from './0003_slot_leases.js';
import * as m0004 from './0004_sessions.js';
import * as m0005 from './0005_audit.js';
import * as m0006 from './0006_lifecycle.js';
import * as m0010 from './0010_resealing.js';
import * as m0011 from './0011_evidence.js';
import * as m0012 from './0012_session_generations.js';
import * as m0013 from './0013_full_notify_queue.js';
import * as m0014 from './0014_changes.js';
import * as m0015 from './0015_replicas.js';
import * as m0016 from './0016_operations.js';
import * as m0017 from './0017_worklists.js';
import * as m0018 from './0018_request_answers.js';
import * as m0019 from './0019_times_and_text.js';
import * as m0020 from './0020_audit_order.js';
import * as m0021 from './0021_audit_indexes.js';
import * as m0022 from './0022_audit_stamp.js';
import * as m0023 from './0023_audit_retention.js';
import * as m0024 from './0024_read_cache.js';
import * as m0025 from './0025_rollouts.js';
import * as m0026 from './0026_epochs.js';

const migrations = {
  '0001_registry': m0001,
  '0002_events': m0002,
  '0003_slot_leases': m0003,
  '0004_sessions': m0004,
  '0005_audit': m0005,
  '0006_lifecycle': m0006,
  '0010_resealing': m0010,
  '0011_evidence': m0011,
  '0012_session_generations': m0012,
  '0013_full_notify_queue': m0013,
  '0014_changes': m0014,
  '0015_replicas': m0015,
  '0016_operations': m0016,
  '0017_worklists': m0017,
  '0018_request_answers': m0018,
  '0019_times_and_text': m0019,
  '0020_audit_order': m0020,
  '0021_audit_indexes': m0021,
  '0022_audit_stamp': m0022,
  '0023_audit_retention': m0023,
  '0024_read_cache': m0024,
  '0025_rollouts': m0025,
  '0026_epochs': m0026,
};

export const registryMigrations: Migrations = sealed(migrations, hashes);

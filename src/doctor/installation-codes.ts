// The codes of findings about the installation and its servers.
import type { CodeEntry } from './code-entry.js';

export const installationCodes = {
  // The registry, Redis and the settings.
  'settings-wrong': {
    severity: 'error',
    about: 'The service cannot start with these settings, or cannot use its registry.',
    todo: 'Correct what the sentence names.',
    mends: null,
  },
  'registry-newer': {
    severity: 'warning',
    about: 'A newer build has migrated the registry.',
    todo: 'Run the doctor of that build.',
    mends: null,
  },
  'audit-rewritable': {
    severity: 'warning',
    about: "The service's role can change the audit of the registry.",
    todo: 'Connect as a role that does not own the registry (docs/guide/audit.md).',
    mends: null,
  },
  'redis-away': {
    severity: 'error',
    about: 'Redis is configured and cannot be used.',
    todo: 'Check REDIS_URL and the server (docs/guide/redis.md).',
    mends: null,
  },
  'clock-wrong': {
    severity: 'error',
    about: 'The clock of this machine differs from the clock of the registry.',
    todo: 'Synchronise both clocks by NTP.',
    mends: null,
  },
  'notify-queue-full': {
    severity: 'error',
    about: "PostgreSQL's queue of notifications is half full.",
    todo: 'Find the session that keeps it: docs/guide/runbooks/TenantryNotifyQueueFilling.md.',
    mends: null,
  },
  'key-missing': {
    severity: 'error',
    about: 'Passwords in the registry are encrypted with a key that ENCRYPTION_KEYS does not have.',
    todo: 'Add the key to ENCRYPTION_KEYS (docs/guide/keys.md).',
    mends: null,
  },
  'key-old': {
    severity: 'warning',
    about: 'Passwords in the registry are encrypted with an older key.',
    todo: 'Run tenantry keys rotate before you remove the key.',
    mends: null,
  },
  'sessions-revived': {
    severity: 'warning',
    about: 'The registry was restored to an earlier moment: sessions of operators that were ended since work again.',
    todo: 'Run tenantry doctor --repair. Then deactivate the operators again that were deactivated since.',
    mends: 'ends the sessions of all operators',
  },
  'work-waits': {
    severity: 'error',
    about: 'Operations wait for a person.',
    todo: 'Run tenantry operations list --state needs-person.',
    mends: null,
  },
  'disk-full': {
    severity: 'error',
    about: 'The disk of the PostgreSQL that starts by itself is almost full.',
    todo: 'Free some space, or move DATA_DIR to a larger disk.',
    mends: null,
  },
  // Servers.
  'cluster-away': {
    severity: 'error',
    about: 'A server cannot be used. What is on it is not checked.',
    todo: 'Check the server and the network, then run the doctor again.',
    mends: null,
  },
  pooler: {
    severity: 'error',
    about: 'A pooler between the service and the server does not fit. What is on the server is not checked.',
    todo: 'Set the pooler as docs/guide/poolers.md says, or connect to PostgreSQL itself.',
    mends: null,
  },
  'cluster-unfit': {
    severity: 'error',
    about:
      'A server cannot hold tenants: its version, its clock, the rights of its provisioner, or it takes no writes.',
    todo: 'Correct what the sentence names.',
    mends: null,
  },
  'connections-short': {
    severity: 'warning',
    about: 'A server allows fewer connections than budget and reserve may open.',
    todo: 'Raise max_connections, or lower the budget.',
    mends: null,
  },
  'collation-changed': {
    severity: 'error',
    about:
      'The collation of the server has another version than that of databases on it: indexes on text may be wrong.',
    todo: 'In each database, run REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION.',
    mends: null,
  },
  'search-slow': {
    severity: 'warning',
    about: 'Searches on a server read every row, or find less than on others.',
    todo: 'Follow docs/guide/clusters.md.',
    mends: null,
  },
  'template-unusable': {
    severity: 'error',
    about: 'No tenant can be made on a server: its template is missing, or PostgreSQL refuses to copy it.',
    todo: 'Run npm run migrate of this build.',
    mends: null,
  },
  'server-open': {
    severity: 'error',
    about: 'Every role of the server may connect to a database that is not a tenant’s.',
    todo: 'As its owner or a superuser, run REVOKE ALL ON DATABASE … FROM PUBLIC.',
    mends: null,
  },
  'transaction-ids-low': {
    severity: 'error',
    about: 'A server runs out of transaction ids. Then it takes no more writes.',
    todo: 'End old transactions, prepared transactions and replication slots, then run VACUUM in the database.',
    mends: null,
  },
  'wal-kept': {
    severity: 'warning',
    about: 'A replication slot that nothing uses keeps WAL until the disk of its server is full.',
    todo: 'Start its standby, or drop the slot with pg_drop_replication_slot.',
    mends: null,
  },
  'not-checked': {
    severity: 'error',
    about: 'Something could not be checked.',
    todo: 'Correct what the sentence names, then run the doctor again.',
    mends: null,
  },
} as const satisfies Record<string, CodeEntry>;

// The catalogue of security events: what the log marks with `security: true`. docs/reference/log.md is generated from it. The
// names are labels of the metric too: never reuse a name for another event.
//
// To add an event, describe it here, and call `app.engine.security.record` right after the act is committed. A refusal needs no
// call: give its AppError the `event` (src/errors.ts), or its code an event (security-events.ts).
import type { RefusalEvent } from '../errors.js';

export interface SecurityEventDefinition {
  readonly level: 'info' | 'warn' | 'error';
  /** What happened: the message of the line. */
  readonly description: string;
  /** The fields of the line, besides those of the request and its caller. */
  readonly fields: readonly (keyof SecurityFields)[];
  /** A client can cause it as often as it likes: only the first of an address in a minute has a line. */
  readonly onlyFirst?: true;
}

/** Ids, words of the code, and numbers. Never a secret, an e-mail address, or text that a client typed. */
export interface SecurityFields {
  /** The tenant that the event concerns. */
  readonly tenantId?: string | undefined;
  /** The caller, if the event has no request that names it. */
  readonly userId?: string | undefined;
  readonly operatorId?: string | undefined;
  /** What the act was done to: a user, a role or an account. */
  readonly targetId?: string | undefined;
  readonly sessionId?: string | undefined;
  readonly clusterId?: string | undefined;
  /** `tenant` for accounts of a tenant, `operator` for operators. */
  readonly realm?: 'tenant' | 'operator' | undefined;
  readonly reason?: string | undefined;
  /** The budget that is used up: account, address or tenant. */
  readonly on?: string | undefined;
  readonly method?: string | undefined;
  /** The route's pattern. */
  readonly route?: string | undefined;
  /** The names of the changed fields. */
  readonly fields?: readonly string[] | undefined;
  /** How many sessions were ended. */
  readonly sessions?: number | undefined;
  /** How many rows are concerned. */
  readonly rows?: number | undefined;
  readonly kid?: string | null | undefined;
  /** Table and column. */
  readonly column?: string | undefined;
  /** The name of a database or a role. */
  readonly name?: string | undefined;
  readonly step?: string | undefined;
  readonly err?: unknown;
}

const OF_ROUTE = ['method', 'route', 'tenantId'] as const;

export const securityEvents = {
  // Who comes in.
  'sign-in-failed': {
    level: 'info',
    description: 'a sign-in failed',
    fields: ['realm', 'reason', 'tenantId', 'targetId'],
  },
  'sign-in-throttled': {
    level: 'warn',
    description: 'sign-ins are refused for a while after too many failures',
    fields: ['realm', 'on'],
  },
  'confirmation-failed': {
    level: 'info',
    description: 'a signed-in caller gave a wrong current password',
    fields: ['realm', 'tenantId'],
  },
  'confirmation-throttled': {
    level: 'warn',
    description: 'confirmations of a password are refused for a while after too many failures',
    fields: ['realm', 'on', 'tenantId'],
  },
  'operator-signed-in': {
    level: 'info',
    description: 'an operator signed in',
    fields: ['operatorId', 'sessionId'],
  },
  'refresh-token-reused': {
    level: 'warn',
    description: 'a refresh token was used a second time: its session was ended',
    fields: ['realm', 'tenantId', 'targetId', 'sessionId'],
  },
  'refresh-token-refused': {
    level: 'info',
    description: 'a refresh token was refused',
    fields: OF_ROUTE,
    onlyFirst: true,
  },

  // What is refused to callers.
  'access-token-refused': {
    level: 'warn',
    description: 'an access token was refused that this service did not sign, or signed for something else',
    fields: ['reason', ...OF_ROUTE],
    onlyFirst: true,
  },
  'ended-session-used': {
    level: 'info',
    description: 'an access token of an ended session was refused',
    fields: OF_ROUTE,
    onlyFirst: true,
  },
  'inactive-account-used': {
    level: 'info',
    description: 'an access token of an account that is not active was refused',
    fields: OF_ROUTE,
    onlyFirst: true,
  },
  'suspended-tenant-used': {
    level: 'info',
    description: 'a request of a suspended tenant was refused',
    fields: OF_ROUTE,
    onlyFirst: true,
  },
  forbidden: {
    level: 'info',
    description: 'a caller asked for something that its permissions or the scope of the route do not allow',
    fields: OF_ROUTE,
    onlyFirst: true,
  },
  'old-sign-in-used': {
    level: 'info',
    description: 'an act that needs a recent sign-in was refused: a stolen access token looks like this',
    fields: OF_ROUTE,
    onlyFirst: true,
  },
  'tenant-mismatch': {
    level: 'warn',
    description: 'a user asked for another tenant than its own',
    fields: OF_ROUTE,
    onlyFirst: true,
  },
  'ambiguous-request': {
    level: 'warn',
    description: 'a request was refused that two servers could read differently',
    fields: OF_ROUTE,
    onlyFirst: true,
  },
  'rate-limited': {
    level: 'info',
    description: 'requests were refused because a rate limit was reached',
    fields: OF_ROUTE,
    onlyFirst: true,
  },
  'cluster-host-refused': {
    level: 'warn',
    description: 'an operator named a server that CLUSTER_HOSTS does not allow',
    fields: OF_ROUTE,
    onlyFirst: true,
  },

  // Accounts and rights.
  'password-changed': {
    level: 'info',
    description: 'an account changed its own password, which ended its other sessions',
    fields: ['tenantId', 'targetId'],
  },
  'password-reset': {
    level: 'info',
    description: 'a user gave another user a new password',
    fields: ['tenantId', 'targetId'],
  },
  'email-changed': {
    level: 'info',
    description: 'the e-mail address of a user was changed',
    fields: ['tenantId', 'targetId'],
  },
  'user-created': { level: 'info', description: 'a user was created', fields: ['tenantId', 'targetId'] },
  'user-activated': { level: 'info', description: 'a user was activated', fields: ['tenantId', 'targetId'] },
  'user-deactivated': {
    level: 'info',
    description: 'a user was deactivated',
    fields: ['tenantId', 'targetId'],
  },
  'sessions-ended': {
    level: 'info',
    description: 'the sessions of a user were ended by another user: by a new password or a deactivation',
    fields: ['tenantId', 'targetId', 'sessions'],
  },
  'user-removed': { level: 'info', description: 'a user was removed', fields: ['tenantId', 'targetId'] },
  'user-roles-changed': {
    level: 'info',
    description: 'the roles of a user were changed',
    fields: ['tenantId', 'targetId'],
  },
  'role-created': { level: 'info', description: 'a role was created', fields: ['tenantId', 'targetId'] },
  'role-changed': { level: 'info', description: 'a role was changed', fields: ['tenantId', 'targetId', 'fields'] },
  'role-removed': { level: 'info', description: 'a role was removed', fields: ['tenantId', 'targetId'] },

  // Tenants and servers.
  'tenant-created': { level: 'info', description: 'a tenant became active', fields: ['tenantId'] },
  'tenant-signed-out': { level: 'info', description: 'all sessions of a tenant were ended', fields: ['tenantId'] },
  'tenant-suspended': { level: 'info', description: 'a tenant was suspended', fields: ['tenantId'] },
  'tenant-resumed': { level: 'info', description: 'a suspended tenant was resumed', fields: ['tenantId'] },
  'tenant-deleted': { level: 'info', description: 'a tenant was deleted', fields: ['tenantId'] },
  'tenant-restored': {
    level: 'info',
    description: 'the restoration of a deleted tenant began',
    fields: ['tenantId'],
  },
  'tenant-purged': {
    level: 'warn',
    description: 'the final removal of a deleted tenant began',
    fields: ['tenantId'],
  },
  'database-password-changed': {
    level: 'info',
    description: "a new password of a tenant's database role was stored",
    fields: ['tenantId'],
  },
  'cluster-registered': { level: 'info', description: 'a PostgreSQL server was registered', fields: ['clusterId'] },
  'cluster-changed': {
    level: 'info',
    description: 'the settings of a PostgreSQL server were changed',
    fields: ['clusterId', 'fields'],
  },
  'cluster-removed': {
    level: 'info',
    description: 'a PostgreSQL server was removed from the registry',
    fields: ['clusterId'],
  },
  'evidence-refused': {
    level: 'error',
    description:
      'a database or a role was left as it is, because it does not carry the evidence for what its row requires',
    fields: ['tenantId', 'clusterId', 'name', 'step', 'err'],
  },
  'wrong-database': {
    level: 'error',
    description: "the database that a tenant's row names does not prove to be the tenant's: it is not served",
    fields: ['tenantId', 'err'],
  },

  // Keys, and the installation itself.
  'reencryption-begun': {
    level: 'info',
    description: 'database passwords are encrypted again with the current key',
    fields: ['kid', 'rows'],
  },
  'passwords-reencrypted': {
    level: 'info',
    description: 'encrypted database passwords again with the current key',
    fields: ['kid', 'column', 'rows'],
  },
  'key-unused': {
    level: 'info',
    description: 'a key encrypts no password any more: it can be removed from ENCRYPTION_KEYS',
    fields: ['kid'],
  },
  'key-missing': {
    level: 'warn',
    description: 'database passwords are encrypted with a key that ENCRYPTION_KEYS does not hold',
    fields: ['kid', 'rows'],
  },
  'password-unreadable': {
    level: 'error',
    description: 'could not decrypt a database password: its key is missing, or another program changed its row',
    fields: ['tenantId', 'clusterId', 'column', 'targetId', 'err'],
  },
  'audit-lost': {
    level: 'error',
    description: 'could not write audit entries',
    fields: ['tenantId', 'rows', 'err'],
  },
  'weak-setup': {
    level: 'warn',
    description: 'the setup gives more rights than the service needs',
    fields: ['reason', 'name'],
  },
} as const satisfies Readonly<Record<string, SecurityEventDefinition>> &
  Readonly<Record<RefusalEvent['name'], SecurityEventDefinition>>;

export type SecurityEventName = keyof typeof securityEvents;

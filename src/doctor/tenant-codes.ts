// The codes of findings about tenants: their rows, databases, marks, roles and rights, and what is inside.
import type { CodeEntry } from './code-entry.js';

const RESTORE = 'Restore the database from a backup, then run tenantry doctor --repair.';
const MIGRATE = 'Run npm run migrate, or tenantry doctor --repair.';
const REPAIR = 'Run tenantry doctor --repair.';

export const tenantCodes = {
  // Rows, databases and marks.
  'database-missing': {
    severity: 'error',
    about: 'A tenant has no database on its server.',
    todo: RESTORE,
    mends: null,
  },
  'database-not-ours': {
    severity: 'error',
    about: "A tenant's database belongs to another role than the provisioner.",
    todo: 'Run the statement as a superuser of the server, then tenantry doctor --repair.',
    mends: null,
  },
  'database-foreign': {
    severity: 'error',
    about: "A tenant's database carries the mark of another tenant, operation or installation.",
    todo: 'Do not change the mark before you know whose data it is (docs/guide/disaster.md).',
    mends: null,
  },
  'registry-older': {
    severity: 'error',
    about: "A tenant's database was changed later than its row: the registry was restored to an earlier moment.",
    todo: REPAIR,
    mends:
      'gives the tenant the status that its database shows, and ends its sessions; a tenant that was deleted since is suspended',
  },
  'mark-missing': {
    severity: 'error',
    about: "A tenant's database carries no mark: it was restored from a dump.",
    todo: REPAIR,
    mends: 'marks the database, if the marker inside it names the tenant',
  },
  'mark-outdated': {
    severity: 'error',
    about: "The mark of a tenant's database is of an earlier change than its row, or of a former build.",
    todo: REPAIR,
    mends: 'opens or closes the database as its row says, and marks it',
  },
  'door-wrong': {
    severity: 'error',
    about: 'The database of an active tenant is closed, or that of another tenant is open.',
    todo: REPAIR,
    mends: 'opens or closes the database as its row says',
  },
  'database-unnamed': {
    severity: 'error',
    about:
      'A database that holds data of a tenant of this installation has no row: the registry was restored to an earlier moment.',
    todo: 'Run tenantry doctor --repair, then name the tenant and resume it.',
    mends: 'makes the row again, suspended, if the marker inside the database names the tenant of its mark',
  },
  'database-left': {
    severity: 'warning',
    about: 'A standby database has no row.',
    todo: 'Nothing: a running service drops it within minutes.',
    mends: null,
  },
  'role-left': {
    severity: 'warning',
    about: 'A role of this installation has neither a row nor a database.',
    todo: 'Nothing if a service runs and it is a standby role; otherwise find out which tenant it belonged to, then remove it by hand.',
    mends: null,
  },
  // Roles and rights on the database.
  'role-missing': {
    severity: 'error',
    about: "A tenant's role does not exist on its server.",
    todo: REPAIR,
    mends: 'makes the role with the stored password, and lets it connect',
  },
  'role-not-ours': {
    severity: 'error',
    about: "The provisioner may not change a tenant's role: a superuser made it, or gave it rights.",
    todo: 'Run the statement as a superuser of the server, then tenantry doctor --repair.',
    mends: null,
  },
  'role-wrong': {
    severity: 'error',
    about: "A tenant's role may not log in, or may more than a tenant's role.",
    todo: REPAIR,
    mends: 'gives the role the attributes that it is made with',
  },
  'role-member': {
    severity: 'error',
    about: "A tenant's role is a member of another role, and so may read what that role may.",
    todo: 'Run the statement as a superuser of the server.',
    mends: null,
  },
  'role-limit': {
    severity: 'error',
    about: "The CONNECTION LIMIT of a tenant's role is not the tenant's limit.",
    todo: REPAIR,
    mends: 'sets the limit',
  },
  'role-settings': {
    severity: 'warning',
    about: "A tenant's role lacks the settings that bound its sessions.",
    todo: REPAIR,
    mends: 'sets them',
  },
  'role-password': {
    severity: 'error',
    about: "The server refuses the stored password of a tenant's role.",
    todo: REPAIR,
    mends: 'gives the role the stored password',
  },
  'public-may-connect': {
    severity: 'error',
    about: "Every role of the server has rights on a tenant's database.",
    todo: REPAIR,
    mends: 'revokes them',
  },
  'connect-missing': {
    severity: 'error',
    about: "A tenant's role may not connect to the tenant's database.",
    todo: REPAIR,
    mends: 'grants CONNECT',
  },
  // What is in the database.
  'owners-wrong': {
    severity: 'error',
    about: "Objects in a tenant's database belong to another role than the provisioner.",
    todo: 'Run tenantry doctor --repair, or the statements as a superuser.',
    mends:
      "makes the provisioner the owner, if it has the owner's rights; otherwise it names the statements for a superuser",
  },
  'grants-missing': {
    severity: 'error',
    about: "A tenant's role lacks rights on tables, or has rights that are withheld.",
    todo: REPAIR,
    mends: 'grants and revokes them',
  },
  'marker-missing': {
    severity: 'error',
    about: "A tenant's database does not name its tenant, so it is not served.",
    todo: 'Look whose data it is. If it is the tenant’s and the database carries its mark, run tenantry doctor --repair.',
    mends: "writes the marker, if the database carries the tenant's mark and the table of markers is empty",
  },
  'marker-foreign': {
    severity: 'error',
    about: "A tenant's database has the marker of another tenant inside: another tenant's dump was restored into it.",
    todo: 'Restore the dump of the right tenant. Do not change the marker.',
    mends: null,
  },
  'schema-behind': {
    severity: 'warning',
    about: "A tenant's database has not run all migrations of this build.",
    todo: MIGRATE,
    mends: 'migrates the database',
  },
  'schema-older': {
    severity: 'error',
    about: "A tenant's database has an older schema than its row says: it was restored from before a migration.",
    todo: MIGRATE,
    mends: 'migrates the database',
  },
  'schema-newer': {
    severity: 'warning',
    about: "A newer build has migrated a tenant's database.",
    todo: 'Run the doctor of that build.',
    mends: null,
  },
  'schema-differs': {
    severity: 'error',
    about: "A tenant's database has run other migrations than this build has.",
    todo: 'Do not migrate it. Find the build that made it (docs/inside/migrations.md).',
    mends: null,
  },
  'schema-drift': {
    severity: 'warning',
    about: "The schema of a tenant's database differs from the template's.",
    todo: 'Look at docs/guide/drift.md: it may be the work of a person.',
    mends: null,
  },
  'index-invalid': {
    severity: 'error',
    about: 'An index is not valid, so no query uses it: its creation was interrupted.',
    todo: 'Drop it and create it again, both CONCURRENTLY (docs/guide/drift.md).',
    mends: null,
  },
} as const satisfies Record<string, CodeEntry>;

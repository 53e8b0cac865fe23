// How connections enter a tenant's database: the address and the password of the tenant's row. A password may change while
// connections are opened with it.
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import type { ConnectionSettings } from '../../db/driver/client.js';
import type { ChangingPassword } from '../../db/driver/pool/pool-types.js';
import type { AppError } from '../errors.js';
import type { TenantDirectory } from '../tenants/tenant-directory.js';
import type { Envelope } from '../secrets/envelope.js';

export interface TenantCredentials {
  /** @throws the error that `unusable` makes, if the password does not decrypt */
  settingsOf(tenant: TenantRecord): ConnectionSettings;
  /**
   * A tenant's password may change at any moment (src/operations/password-rotation.ts), and the server knows the new password
   * before this process does. The registry's row holds the password that is in force and the next password.
   *
   * @param first the password to begin with
   */
  changingPassword(tenant: TenantRecord, first: string): ChangingPassword;
}

export function createTenantCredentials(deps: {
  readonly directory: Pick<TenantDirectory, 'reload'>;
  readonly envelope: Envelope;
  /** The TLS settings of the cluster at a place. */
  readonly tls: (place: Pick<ConnectionSettings, 'host' | 'port'>) => ConnectionSettings['tls'];
  /** The error for a password that does not decrypt. */
  readonly unusable: (tenantId: string, step: string, cause: unknown) => AppError;
}): TenantCredentials {
  const { directory, envelope, tls, unusable } = deps;

  function openPassword(tenant: TenantRecord, sealed = tenant.dbPassword): string {
    const { id, dbHost: host, dbPort: port, dbUser: user } = tenant;
    try {
      return envelope.open(sealed, { id, host, port, user });
    } catch (error) {
      throw unusable(id, 'password', error);
    }
  }

  function openIfPossible(tenant: TenantRecord, sealed: string): string | undefined {
    try {
      return openPassword(tenant, sealed);
    } catch {
      return undefined;
    }
  }

  return {
    settingsOf(tenant: TenantRecord): ConnectionSettings {
      const { dbHost: host, dbPort: port, dbUser: user, dbName: database } = tenant;
      return { host, port, database, user, password: openPassword(tenant), tls: tls({ host, port }) };
    },

    changingPassword(tenant: TenantRecord, first: string): ChangingPassword {
      let current = first;
      return {
        get current() {
          return current;
        },
        async refused(password) {
          // Another connection has found the next password meanwhile.
          if (password !== current) return true;
          const now = await directory.reload(tenant.id).catch(() => tenant);
          // Check again: the row may be older than the password that another connection has found.
          if (password !== current) return true;
          if (now?.dbHost !== tenant.dbHost || now.dbPort !== tenant.dbPort || now.dbUser !== tenant.dbUser)
            return false;
          for (const sealed of [now.dbPassword, now.nextDbPassword]) {
            const candidate = sealed === null ? password : openIfPossible(now, sealed);
            if (candidate === undefined || candidate === password) continue;
            current = candidate;
            return true;
          }
          return false;
        },
      };
    },
  };
}

// From Settings to Config: a first start fills the gaps that the environment leaves.
import type { ConnectionSettings } from '../../db/driver/client.js';
import type { TokenKey } from '../auth/keyring.js';
import type { Config, EncryptionKey, Settings } from './config-types.js';
import { deepFreeze } from './deep-freeze.js';

/** The parts of a Config that Settings may lack. */
export interface FilledGaps {
  readonly registry: ConnectionSettings;
  readonly provisioner: ConnectionSettings;
  readonly tokenKeys: readonly TokenKey[];
  readonly encryptionKeys: readonly EncryptionKey[];
}

/** The frozen Config. The owner of the registry, the first operator and the data folder are not part of it. */
export function completeConfig(settings: Settings, gaps: FilledGaps): Config {
  const { production, http, log, metrics, redis, auditKeepDays, readCache, throttle, shutdown, connectionMaxAge } =
    settings;
  return deepFreeze<Config>({
    production,
    http,
    log,
    metrics,
    redis,
    auditKeepDays,
    readCache,
    throttle,
    shutdown,
    connectionMaxAge,
    registry: { pool: settings.registry.pool, connection: gaps.registry },
    tenants: { ...settings.tenants, provisioner: gaps.provisioner },
    auth: { ...settings.auth, keys: gaps.tokenKeys },
    encryptionKeys: gaps.encryptionKeys,
  });
}

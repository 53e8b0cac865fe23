// The shape of the configuration: Settings as the environment gives them, and Config, in which nothing is missing.
import type { StoredLimits } from '../../db/registry/registry-schema.js';
import type { ConnectionSettings, PoolLimits } from '../../db/driver/client.js';
import type { SessionLifetimes } from '../../db/shared/session-queries.js';
import type { TokenKey } from '../auth/keyring.js';
import type { PasswordBudgetLimits } from '../auth/password-budgets.js';
import type { ThrottleLimits } from '../auth/throttle.js';
import type { RedisSettings } from '../replicas/redis-settings.js';
import type { ClusterBudget } from '../connections/governors.js';

/** What the app is built on. Times are in milliseconds unless the comment says otherwise. */
export interface Config {
  readonly production: boolean;
  readonly http: {
    readonly host: string;
    readonly port: number;
    /** Path of the API: '' or, for example, '/v1'. Health, docs and the JWK Set stay at the root. */
    readonly apiPrefix: string;
    /** Addresses and CIDRs of proxies whose X-Forwarded-For is trusted; empty trusts none. */
    readonly trustProxy: readonly string[];
    readonly corsOrigins: readonly string[];
    /** Requests per minute from one address. */
    readonly rateLimitMax: number;
    /** Requests per minute of one user or operator. */
    readonly userRateLimitMax: number;
    /** Sign-in attempts per minute from one address. */
    readonly signInLimit: number;
    readonly requestTimeout: number;
    readonly keepAliveTimeout: number;
    /** The length of a turn of the event loop above which requests are refused; 0 refuses none. */
    readonly maxEventLoopDelay: number;
    /** Largest request body, in bytes. */
    readonly bodyLimit: number;
  };
  readonly log: { readonly level: string; readonly pretty: boolean };
  readonly metrics: {
    readonly host: string;
    /** Undefined: no metrics are served. */
    readonly port: number | undefined;
    /** The number of tenants that have series of their own. */
    readonly tenants: number;
  };
  readonly registry: { readonly connection: ConnectionSettings; readonly pool: Required<PoolLimits> };
  /** The Redis in which replicas share counts and sessions. Undefined: each process keeps its own. */
  readonly redis: RedisSettings | undefined;
  /** Cached answers: in Redis, or in `memoryBytes` of this process. While Redis uses more than `redisBytes`, nothing is stored. */
  readonly readCache: {
    readonly on: boolean;
    readonly ttl: number;
    readonly memoryBytes: number;
    readonly redisBytes: number;
  };
  readonly tenants: {
    /** The default cluster, where databases of new tenants are created; the user is its provisioner. */
    readonly provisioner: ConnectionSettings;
    readonly provisionerPool: Required<PoolLimits>;
    readonly pool: Required<PoolLimits>;
    /** Limits of a tenant that has no limits of its own. An absent key means no limit. */
    readonly limits: StoredLimits;
    /** A tenant pool that is not used for this long is closed. */
    readonly closePoolAfter: number;
    /** How long a cached tenant is served while the registry does not answer. */
    readonly registryOutageGrace: number;
    readonly preparedStatements: boolean;
    /** From the deletion of a tenant until its purge. */
    readonly deletionGrace: number;
    /** The age at which a tenant's database password is changed; 0 means never. */
    readonly rotatePasswordsAfter: number;
    /** Number of standby databases to keep ready on the default cluster. */
    readonly standbyDatabases: number;
    /** Time between two rounds of the reconciler. */
    readonly reconcileEvery: number;
    /** Connections to the default cluster. Other clusters have their budgets in the registry. */
    readonly clusterBudget: ClusterBudget;
    /** Host names, addresses and CIDRs that may be registered as clusters. The host of the default cluster always may. */
    readonly clusterHosts: readonly string[];
  };
  readonly auth: {
    /** Keys of access tokens. The first key that can sign signs; all of them verify. */
    readonly keys: readonly TokenKey[];
    readonly issuer: string;
    readonly audience: string;
    /** Seconds. */
    readonly accessTokenTtl: number;
    /** Seconds. */
    readonly sessions: SessionLifetimes;
    /** Keys of refresh tokens: the first signs, all verify. The keys derived from `encryptionKeys` come after them. */
    readonly refreshTokenKeys: readonly EncryptionKey[];
    readonly hashConcurrency: number;
    readonly passwordBudgets: PasswordBudgetLimits;
  };
  /** Days for which rows of the audit are kept; 0 means for ever. */
  readonly auditKeepDays: number;
  /** Number of failed sign-ins after which the next attempt must wait. */
  readonly throttle: ThrottleLimits;
  /** Keys that encrypt database passwords in the registry. The first key encrypts; all of them decrypt. */
  readonly encryptionKeys: readonly EncryptionKey[];
  readonly shutdown: { readonly drain: number; readonly timeout: number };
  /** Age at which an unused connection to PostgreSQL is closed, 20 % more or less. */
  readonly connectionMaxAge: number;
}

/** A key of 256 bits. Ciphertexts and tokens name it by `kid`. */
export interface EncryptionKey {
  readonly kid: string;
  readonly key: Buffer;
}

/** What the environment gives. A first start outside production fills what is undefined here (see FilledGaps). */
export interface Settings extends Omit<Config, 'registry' | 'tenants' | 'auth' | 'encryptionKeys'> {
  /** Absolute path. */
  readonly dataDir: string;
  /** Number of threads of libuv. libuv reads the variable itself; the service only checks it. */
  readonly threadPoolSize: number;
  readonly registry: {
    readonly connection: ConnectionSettings | undefined;
    /** The registry as its owner, for migrations. It never becomes part of a Config. */
    readonly owner: ConnectionSettings | undefined;
    readonly pool: Required<PoolLimits>;
  };
  readonly tenants: Omit<Config['tenants'], 'provisioner'> & { readonly provisioner: ConnectionSettings | undefined };
  readonly auth: Omit<Config['auth'], 'keys'> & { readonly keys: readonly TokenKey[] | undefined };
  readonly encryptionKeys: readonly EncryptionKey[] | undefined;
  readonly firstOperator: { readonly email: string; readonly password: string | undefined } | undefined;
}

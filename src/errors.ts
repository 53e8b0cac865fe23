// The catalogue of coded errors: every failure that a client can see, with its status and its code. No other file decides a
// status.

/** One error in the input, with its path in the body or query (`/admin/email`). */
export interface InputIssue {
  readonly path: string;
  readonly message: string;
}

interface CatalogueEntry {
  readonly status: number;
  /** Used instead of `status` if the error has a retry time. */
  readonly statusWithRetry?: number;
  readonly title: string;
}

/** Codes are part of the API: clients branch on them. */
export const catalogue = {
  'invalid-request': { status: 400, title: 'The request is not valid' },
  'invalid-cursor': { status: 400, title: 'The cursor does not belong to this list' },
  'invalid-credentials': { status: 401, title: 'Sign-in failed' },
  'invalid-refresh-token': { status: 401, title: 'The refresh token does not work' },
  unauthenticated: { status: 401, title: 'A valid access token is needed' },
  forbidden: { status: 403, title: 'Not allowed' },
  'wrong-password': { status: 403, title: 'The current password is not right' },
  'confirmation-needed': { status: 403, title: 'A recent sign-in is needed' },
  'tenant-suspended': { status: 403, title: 'The tenant is suspended' },
  'tenant-limit-exceeded': { status: 403, statusWithRetry: 429, title: 'A limit of the tenant is reached' },
  'not-found': { status: 404, title: 'Not found' },
  'method-not-allowed': { status: 405, title: 'The method leads nowhere at this address' },
  'request-timeout': { status: 408, title: 'The request took too long to arrive' },
  'email-taken': { status: 409, title: 'The e-mail address is taken' },
  'slug-taken': { status: 409, title: 'The slug is taken' },
  'sku-taken': { status: 409, title: 'The SKU is taken' },
  'role-taken': { status: 409, title: 'There is a role of this name' },
  'built-in-role': { status: 409, title: 'A built-in role cannot be changed or removed' },
  'role-in-use': { status: 409, title: 'A role that users hold cannot be removed' },
  'last-admin': { status: 409, title: 'The last active admin cannot be removed' },
  'insufficient-stock': { status: 409, title: 'The stock does not allow this change' },
  'cluster-taken': { status: 409, title: 'There is a cluster of this name, or at this host and port' },
  'cluster-in-use': { status: 409, title: 'Something stands on the cluster' },
  'default-cluster': { status: 409, title: 'The default cluster is what the configuration says' },
  'tenant-state': { status: 409, title: 'The tenant is not in a state that allows this' },
  'operation-state': { status: 409, title: 'The operation is not in a state that allows this' },
  'rollout-under-way': { status: 409, title: 'Another rollout is under way' },
  'rollout-state': { status: 409, title: 'The rollout is not in a state that allows this' },
  'nothing-behind': { status: 409, title: 'No tenant is behind' },
  'idempotency-key-in-use': { status: 409, title: 'A request with this Idempotency-Key is under way' },
  'precondition-failed': { status: 412, title: 'The resource has changed' },
  'body-too-large': { status: 413, title: 'The body is too large' },
  'uri-too-long': { status: 414, title: 'The address is too long' },
  'unsupported-media-type': { status: 415, title: 'Send application/json in UTF-8' },
  'idempotency-key-reused': { status: 422, title: 'The Idempotency-Key belongs to another request' },
  'invalid-pool-options': { status: 422, title: 'The pool options are not within bounds' },
  'invalid-limits': { status: 422, title: 'The limits are not within bounds' },
  'cluster-host-not-allowed': { status: 422, title: 'The host is not one that may be registered' },
  'cluster-unusable': { status: 422, title: 'The server cannot hold tenants' },
  'provisioner-password-needed': {
    status: 422,
    title: 'The password of the provisioner must be given with this change',
  },
  'no-cluster': { status: 422, title: 'No cluster takes this tenant' },
  'not-adoptable': { status: 422, title: 'The database cannot become a tenant' },
  'too-many-idempotency-keys': { status: 429, title: 'Too many requests with an Idempotency-Key within a day' },
  'rate-limited': { status: 429, title: 'Too many requests' },
  'headers-too-large': { status: 431, title: 'The headers are too large' },
  'internal-error': { status: 500, title: 'Something went wrong' },
  'provisioning-failed': { status: 503, title: 'The tenant could not be made' },
  'adoption-failed': { status: 503, title: 'The database could not be made a tenant' },
  'operation-unfinished': { status: 503, title: 'The operation is not finished yet' },
  'tenant-upgrading': { status: 503, title: 'The tenant is being upgraded' },
  overloaded: { status: 503, title: 'This replica has too much to do' },
  unavailable: { status: 503, title: 'Temporarily unavailable' },
} as const satisfies Record<string, CatalogueEntry>;

export type ErrorCode = keyof typeof catalogue;

/** The statuses that an error of this code may have. */
export function statusesOf(code: ErrorCode): readonly number[] {
  const { status, statusWithRetry }: CatalogueEntry = catalogue[code];
  return statusWithRetry === undefined ? [status] : [status, statusWithRetry];
}

/**
 * The security event of a refusal whose code alone does not tell it: an expired and a forged token have the same answer.
 * src/observability/security-catalogue.ts describes the events.
 */
export interface RefusalEvent {
  readonly name:
    'access-token-refused' | 'ambiguous-request' | 'ended-session-used' | 'inactive-account-used' | 'tenant-mismatch';
  /** One of a few words of the code, and never a text of the client. */
  readonly reason?: string;
}

export interface AppErrorOptions {
  /** A sentence for the client; never the cause of a 5xx, which the client cannot fix. */
  readonly detail?: string;
  readonly issues?: readonly InputIssue[];
  /** Seconds after which a retry makes sense, sent as Retry-After. */
  readonly retryAfter?: number;
  /** The tenant's limit that was reached. */
  readonly limit?: { readonly name: string; readonly value: number };
  /** The operation that continues in the background. */
  readonly operationId?: string;
  /** For the log only. */
  readonly cause?: unknown;
  /** For the log only. Null if the event of the refusal is logged elsewhere. */
  readonly event?: RefusalEvent | null;
}

/** An error that a client may see. Everything else is answered with `internal-error` and no detail. */
export class AppError extends Error {
  readonly detail: string | undefined;
  readonly issues: readonly InputIssue[] | undefined;
  readonly retryAfter: number | undefined;
  readonly limit: AppErrorOptions['limit'];
  readonly operationId: string | undefined;
  readonly event: AppErrorOptions['event'];

  constructor(
    readonly code: ErrorCode,
    options: AppErrorOptions = {},
  ) {
    super(options.detail ?? catalogue[code].title, { cause: options.cause });
    this.name = 'AppError';
    this.detail = options.detail;
    this.issues = options.issues;
    this.retryAfter = options.retryAfter;
    this.limit = options.limit;
    this.operationId = options.operationId;
    this.event = options.event;
  }

  get status(): number {
    const { status, statusWithRetry }: CatalogueEntry = catalogue[this.code];
    return this.retryAfter === undefined ? status : (statusWithRetry ?? status);
  }
}

/** The limits that answer 429, besides a tenant's own. */
export const rateLimits = [
  'address',
  'sign-in',
  'user',
  'password',
  'failures-account',
  'failures-address',
  'failures-tenant',
] as const;
export type RateLimitName = (typeof rateLimits)[number];

/** `rate-limited`, with the limit that was reached, for those who count. */
export class RateLimited extends AppError {
  /**
   * @param wait ms until a retry makes sense
   * @param event null if the event of the refusal is logged elsewhere
   */
  constructor(
    readonly reached: RateLimitName,
    wait: number,
    event?: null,
  ) {
    super('rate-limited', { retryAfter: Math.ceil(wait / 1_000), ...(event === null && { event }) });
  }
}

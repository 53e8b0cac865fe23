// Explains each coded error to clients: when it happens, and what the client can do. scripts/docs-reference.ts writes
// docs/reference/errors.md from it; no answer contains these sentences.
import type { ErrorCode } from '../errors.js';

/** The explanation of one error code. */
export interface ErrorGuide {
  /** When the service answers with this code. */
  readonly when: string;
  /** What the client can do about it. */
  readonly remedy: string;
  /** Whether the answer has a Retry-After header; absent means never. */
  readonly retryAfter?: 'always' | 'sometimes';
}

/** An explanation for every code of the catalogue. */
export const errorGuide: Readonly<Record<ErrorCode, ErrorGuide>> = {
  'invalid-request': {
    when: 'The address, a header or the body does not have the form that the route demands.',
    remedy: 'Correct what `errors` or `detail` names, then send the request again.',
  },
  'invalid-cursor': {
    when: 'The `cursor` belongs to another list, sort order, filter or tenant, or was changed.',
    remedy: 'Start again at the first page, without `cursor`. Keep sort order and filters while you read the pages.',
  },
  'invalid-credentials': {
    when: 'The tenant, the e-mail address or the password is wrong, or the account is not active. The answer is the same for each.',
    remedy: 'Check the tenant, the e-mail address and the password.',
  },
  'invalid-refresh-token': {
    when: 'The refresh token was used before, has expired, or its session has ended.',
    remedy: 'Sign in again. Send each refresh token only once.',
  },
  unauthenticated: {
    when: 'The access token is missing, not valid or expired, or its session has ended.',
    remedy: 'Get a new access token at `POST /auth/refresh`, or sign in again.',
  },
  forbidden: {
    when: 'The caller lacks the permission, or the route is for another kind of caller.',
    remedy: 'Ask a tenant admin for the permission that `detail` names.',
  },
  'wrong-password': {
    when: 'The `currentPassword` that confirms the change is wrong, or was changed meanwhile.',
    remedy: 'Send the present password.',
  },
  'confirmation-needed': {
    when: 'The act needs a sign-in or a confirmation of the last five minutes.',
    remedy:
      'Send the password to `POST /auth/confirm`, then send the request again with the access token of the answer.',
  },
  'tenant-suspended': {
    when: 'An operator has suspended the tenant of the access token.',
    remedy: 'Ask the operator to resume the tenant.',
  },
  'tenant-limit-exceeded': {
    when: 'The request would exceed a limit of the tenant. The status is 429 when waiting helps, otherwise 403.',
    remedy:
      'With 429, wait for `Retry-After`. With 403, use less, or ask the operator to raise the limit that `limit` names.',
    retryAfter: 'sometimes',
  },
  'not-found': {
    when: 'The address or the object does not exist, or the caller may not know of it.',
    remedy: 'Check the address and the id.',
  },
  'method-not-allowed': {
    when: 'The address exists, but not with this method.',
    remedy: 'Use one of the methods in the `Allow` header.',
  },
  'request-timeout': {
    when: 'The request did not arrive completely within the time allowed.',
    remedy: 'Send the request again, on a faster connection or with a smaller body.',
  },
  'email-taken': {
    when: 'Another user of the tenant has this e-mail address.',
    remedy: 'Choose another e-mail address.',
  },
  'slug-taken': {
    when: 'Another tenant has this slug, or a tenant with it is still being created or removed.',
    remedy: 'Choose another slug. With `Retry-After`, the slug may become free after that time.',
    retryAfter: 'sometimes',
  },
  'sku-taken': {
    when: 'Another product of the tenant has this SKU.',
    remedy: 'Choose another SKU, or change the existing product.',
  },
  'role-taken': {
    when: 'Another role of the tenant has this name.',
    remedy: 'Choose another name, or change the existing role.',
  },
  'built-in-role': {
    when: 'The request would change or remove a built-in role.',
    remedy: 'Create a role of your own with the permissions that you need.',
  },
  'role-in-use': {
    when: 'The request would remove a role that users hold.',
    remedy: 'Take the role from its users first. `GET /users?role=` lists them.',
  },
  'last-admin': {
    when: 'The request would leave the tenant without an active admin.',
    remedy: 'Make another user an admin first.',
  },
  'insufficient-stock': {
    when: 'The change would take the stock below 0 or above 2,147,483,647.',
    remedy: 'Send a `delta` that keeps the stock within these bounds. `detail` says the present stock.',
  },
  'cluster-taken': {
    when: 'Another cluster has this name, or this host and port.',
    remedy: 'Choose another name, or change the existing cluster.',
  },
  'cluster-in-use': {
    when: 'The cluster holds tenants or standby databases, or another request changed it meanwhile.',
    remedy: 'Drain the cluster and purge its tenants, or read the cluster and try again.',
  },
  'default-cluster': {
    when: 'The request would remove the default cluster, or change its connection or budget.',
    remedy: 'Change the configuration of the service (`TENANT_DATABASE_URL` and the budget variables).',
  },
  'tenant-state': {
    when: 'The status of the tenant, or the mark of its database, does not allow the action.',
    remedy: 'Read `detail`. Bring the tenant into a status that allows the action, then try again.',
  },
  'idempotency-key-in-use': {
    when: 'A request with the same Idempotency-Key is still running.',
    remedy: 'Wait for `Retry-After`, then send the same request with the same key.',
    retryAfter: 'always',
  },
  'precondition-failed': {
    when: 'The resource has another version than the ETags in `If-Match`: it was changed since it was read.',
    remedy: 'Read the resource again, decide again, and send the change with the new ETag.',
  },
  'body-too-large': {
    when: 'The body has more bytes than the service accepts.',
    remedy: 'Send a smaller body.',
  },
  'uri-too-long': {
    when: 'Reserved. Today the service answers `headers-too-large` to an address that is too long.',
    remedy: 'Send a shorter address.',
  },
  'unsupported-media-type': {
    when: 'The body is not JSON in UTF-8, or is compressed.',
    remedy: 'Send `Content-Type: application/json`, in UTF-8 and without `Content-Encoding`.',
  },
  'idempotency-key-reused': {
    when: 'The Idempotency-Key was sent before with another body or query, or the tenant that it made was removed, or its operation was abandoned.',
    remedy: 'Use a new key for a new request.',
  },
  'too-many-idempotency-keys': {
    when: 'Too many answers to requests with an Idempotency-Key are stored: about 100,000 in a tenant, 100,000 of all operators, or 100 of the users who rename their tenant. Each is kept for 24 hours.',
    remedy: 'Send the request without a key, or wait.',
    retryAfter: 'always',
  },
  'invalid-pool-options': {
    when: 'A pool option is not known or not within its bounds.',
    remedy: 'Correct the options that `errors` names.',
  },
  'invalid-limits': {
    when: 'A limit is not known or not within its bounds.',
    remedy: 'Correct the limits that `errors` names.',
  },
  'cluster-host-not-allowed': {
    when: 'The host is not in `CLUSTER_HOSTS`.',
    remedy: 'Register an allowed host, or add the host to `CLUSTER_HOSTS`.',
  },
  'cluster-unusable': {
    when: 'The service checked the server and cannot place tenants there.',
    remedy: 'Fix the problems that `detail` names on the server, then send the request again.',
  },
  'provisioner-password-needed': {
    when: 'The request changes host, port or TLS of a cluster without its password.',
    remedy: 'Send `provisionerPassword` in the same request.',
  },
  'no-cluster': {
    when: 'No cluster with the given id or region accepts new tenants.',
    remedy: 'Name another cluster or region, or let a cluster accept tenants.',
  },
  'not-adoptable': {
    when: 'The database cannot become a tenant, for the reason in `detail`.',
    remedy: 'Prepare the database as `detail` says, or name another one.',
  },
  'rate-limited': {
    when: 'The address, the account or the tenant sent too many requests or failed sign-ins.',
    remedy: 'Wait for `Retry-After`, then send the request again.',
    retryAfter: 'always',
  },
  'headers-too-large': {
    when: 'The address and the headers together have more bytes than the service accepts.',
    remedy: 'Send a shorter address, or fewer and shorter headers.',
  },
  'internal-error': {
    when: 'The service met an error that it did not expect. The answer has no `detail`.',
    remedy: 'Report the `requestId` to the operator. A write may have taken effect: read before you send it again.',
  },
  'provisioning-failed': {
    when: 'A step of creating the tenant failed. `detail` says which one, and what was undone.',
    remedy: 'Wait for `Retry-After`, then send the same request with the same Idempotency-Key.',
    retryAfter: 'always',
  },
  'adoption-failed': {
    when: 'A step of adopting the database failed. `detail` says which one, and what was undone.',
    remedy: 'Wait for `Retry-After`. If `detail` says that the outcome is not known, read the tenant first.',
    retryAfter: 'always',
  },
  'operation-state': {
    when: 'The operation has ended, or its kind does not allow the act.',
    remedy: 'Read the operation with GET /operations/{id}.',
  },
  'rollout-under-way': {
    when: 'A rollout is running, paused or stopped. There is one at a time.',
    remedy: 'Read it with GET /rollouts. Resume it, or abort it and start another one.',
  },
  'rollout-state': {
    when: 'The rollout has ended, or its state does not allow the act.',
    remedy: 'Read the rollout with GET /rollouts/{id}.',
  },
  'nothing-behind': {
    when: 'Every tenant has the schema of the build that answers, or a newer one. No rollout was recorded.',
    remedy: 'Nothing is to be done. Send the request to a replica of the newer build if you expected more.',
  },
  'operation-unfinished': {
    when: 'The request has begun work of several steps that needs more time. The service continues it in the background.',
    remedy:
      'GET /operations/{operationId} shows how far it is. Do not send the request again without its Idempotency-Key.',
    retryAfter: 'always',
  },
  'tenant-upgrading': {
    when: "The tenant's database has a schema that this build does not serve: it is not migrated yet, or a newer build has migrated it.",
    remedy: 'Wait for `Retry-After`, then send the request again.',
    retryAfter: 'always',
  },
  overloaded: {
    when: 'This replica gets more requests than it can answer in time. Nothing was done for the request.',
    remedy: 'Wait for `Retry-After`, then send the request again: this is safe for every method.',
    retryAfter: 'always',
  },
  unavailable: {
    when: 'A database does not answer in time, too many requests wait, or the replica is shutting down.',
    remedy: 'Wait for `Retry-After`, then try again. A write may have taken effect: read before you send it again.',
    retryAfter: 'always',
  },
};

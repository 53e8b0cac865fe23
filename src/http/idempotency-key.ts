// The header Idempotency-Key.
import { AppError } from '../errors.js';

export const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,200}$/;
export const IDEMPOTENCY_KEY_RULE = 'must be 1 to 200 visible ASCII characters';

/** @throws AppError `invalid-request` for a key of another form, and for two keys, which arrive as one with a comma and a space */
export function idempotencyKeyOf(header: string | string[] | undefined): string | undefined {
  if (header === undefined) return undefined;
  if (typeof header === 'string' && IDEMPOTENCY_KEY.test(header)) return header;
  throw new AppError('invalid-request', { issues: [{ path: '/idempotency-key', message: IDEMPOTENCY_KEY_RULE }] });
}

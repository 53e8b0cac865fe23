// Cursors of lists: opaque to the client, and signed over what they belong to, so that none can be forged, or carried to
// another tenant, another sort or another filter.
import { createHmac, createSecretKey, hkdfSync, timingSafeEqual } from 'node:crypto';
import type { Position } from '../db/keyset.js';
import { AppError } from './errors.js';

/** What a cursor belongs to: whose list, which list, and everything that decides its rows and their order. */
export type CursorContext = readonly [owner: string, list: string, sort: string, filters: object];

export interface Cursors {
  encode(position: Position, context: CursorContext): string;
  /** @throws AppError `invalid-cursor` for anything that was not encoded for this context */
  decode(cursor: string, context: CursorContext): Position;
}

const MAC_BYTES = 16;

/** @param secret any secret of the installation; the signing key is derived from it and used for nothing else */
export function createCursors(secret: string): Cursors {
  const key = createSecretKey(Buffer.from(hkdfSync('sha256', secret, '', 'tenantry list cursors v1', 32)));
  const macOf = (payload: string, context: CursorContext): Buffer =>
    createHmac('sha256', key)
      .update(JSON.stringify([payload, ...context]))
      .digest()
      .subarray(0, MAC_BYTES);
  return {
    encode(position, context) {
      const payload = JSON.stringify(position);
      return Buffer.concat([macOf(payload, context), Buffer.from(payload)]).toString('base64url');
    },

    decode(cursor, context) {
      const bytes = Buffer.from(cursor, 'base64url');
      const payload = bytes.subarray(MAC_BYTES).toString('utf8');
      const mac = bytes.subarray(0, MAC_BYTES);
      // Buffer skips characters that are not base64url: without the comparison a cursor could be spelt in many ways.
      const spelt = bytes.toString('base64url') === cursor;
      if (!spelt || mac.length !== MAC_BYTES || !timingSafeEqual(mac, macOf(payload, context)))
        throw new AppError('invalid-cursor');
      return JSON.parse(payload) as Position;
    },
  };
}

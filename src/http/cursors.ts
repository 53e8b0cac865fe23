// Cursors of lists: opaque to the client, and signed over what they belong to, so that none can be forged, or carried to
// another tenant, another sort or another filter.
import { createHmac, createSecretKey, hkdfSync, timingSafeEqual, type KeyObject } from 'node:crypto';
import type { Position } from '../../db/shared/keyset.js';
import { AppError } from '../errors.js';

/** What a cursor belongs to: whose list, which list, and everything that decides its rows and their order. */
export type CursorContext = readonly [owner: string, list: string, sort: string, filters: object];

export interface Cursors {
  encode(position: Position, context: CursorContext): string;
  /** @throws AppError `invalid-cursor` for anything that was not encoded for this context */
  decode(cursor: string, context: CursorContext): Position;
}

const MAC_BYTES = 16;

/**
 * @param secrets of the installation; from each a key is derived and used for nothing else. The first signs and all are
 *   tried, so that a list goes on while replicas change to another one
 * @throws Error where there is none
 */
export function createCursors(secrets: readonly Buffer[]): Cursors {
  const keys = secrets.map((secret) =>
    createSecretKey(Buffer.from(hkdfSync('sha256', secret, '', 'tenantry list cursors v1', 32))),
  );
  const [current] = keys;
  if (!current) throw new Error('there is no secret to sign cursors with');
  const macOf = (key: KeyObject, payload: string, context: CursorContext): Buffer =>
    createHmac('sha256', key)
      .update(JSON.stringify([payload, ...context]))
      .digest()
      .subarray(0, MAC_BYTES);
  return {
    encode(position, context) {
      const payload = JSON.stringify(position);
      return Buffer.concat([macOf(current, payload, context), Buffer.from(payload)]).toString('base64url');
    },

    decode(cursor, context) {
      const bytes = Buffer.from(cursor, 'base64url');
      const payload = bytes.subarray(MAC_BYTES).toString('utf8');
      const mac = bytes.subarray(0, MAC_BYTES);
      // Buffer skips characters that are not base64url: without the comparison a cursor could be spelt in many ways.
      const spelt = bytes.toString('base64url') === cursor;
      const isOurs = (key: KeyObject): boolean => timingSafeEqual(mac, macOf(key, payload, context));
      if (!spelt || mac.length !== MAC_BYTES || !keys.some(isOurs)) throw new AppError('invalid-cursor');
      return JSON.parse(payload) as Position;
    },
  };
}

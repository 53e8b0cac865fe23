// Cursors of lists: opaque to the client, and signed over their context. So no client can forge a cursor, or use it with another
// tenant, sort order or filter.
import { createHmac, createSecretKey, hkdfSync, timingSafeEqual, type KeyObject } from 'node:crypto';
import type { Position } from '../../db/shared/keyset.js';
import { AppError } from '../errors.js';

/** The context of a cursor: the owner, the list, and everything that decides its rows and their order. */
export type CursorContext = readonly [owner: string, list: string, sort: string, filters: object];

export interface Cursors {
  encode(position: Position, context: CursorContext): string;
  /** @throws AppError `invalid-cursor` for any text that was not encoded for this context */
  decode(cursor: string, context: CursorContext): Position;
}

const MAC_BYTES = 16;

/**
 * @param secrets the secrets of the installation; a separate key is derived from each. The first key signs and all keys verify,
 *   so that lists continue while replicas change to another secret
 * @throws Error if there is no secret
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
      // Buffer skips characters that are not base64url. Without this comparison one cursor could be written in many ways.
      const spelt = bytes.toString('base64url') === cursor;
      const isOurs = (key: KeyObject): boolean => timingSafeEqual(mac, macOf(key, payload, context));
      if (!spelt || mac.length !== MAC_BYTES || !keys.some(isOurs)) throw new AppError('invalid-cursor');
      return JSON.parse(payload) as Position;
    },
  };
}

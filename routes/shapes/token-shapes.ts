// The answer to a sign-in and to a refresh.
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { Grant } from '../../src/auth/session-rules.js';
import type { Principal } from '../../src/auth/tokens.js';
import { whole } from './fields.js';

export const AccessToken = z
  .object({
    accessToken: z.string(),
    tokenType: z.string(),
    expiresIn: whole.meta({ description: 'Seconds until the access token expires.' }),
  })
  .meta({ id: 'AccessToken' });

export const Tokens = AccessToken.extend({
  refreshToken: z.string().meta({ description: 'Valid once, at POST /auth/refresh.' }),
}).meta({ id: 'Tokens' });

/** @param expiresIn seconds */
export function tokensOf(
  app: FastifyInstance,
  expiresIn: number,
  { principal, refreshToken, signedInAgo }: Grant,
): z.output<typeof Tokens> {
  return { ...accessTokenOf(app, expiresIn, principal, signedInAgo), refreshToken };
}

/**
 * @param expiresIn seconds
 * @param provedAgo time (ms) since the caller proved its password
 */
export function accessTokenOf(
  app: FastifyInstance,
  expiresIn: number,
  principal: Principal,
  provedAgo: number,
): z.output<typeof AccessToken> {
  return { accessToken: app.tokens.sign(principal, provedAgo), tokenType: 'Bearer', expiresIn };
}

// The answer to a sign-in and to a refresh.
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { Grant } from '../../src/auth/session-rules.js';

export const Tokens = z.object({
  accessToken: z.string(),
  refreshToken: z.string().meta({ description: 'Valid once, at POST /auth/refresh.' }),
  tokenType: z.string(),
  expiresIn: z.number().meta({ description: 'Seconds until the access token expires.' }),
});

/** @param expiresIn seconds */
export function tokensOf(
  app: FastifyInstance,
  expiresIn: number,
  { principal, refreshToken }: Grant,
): z.output<typeof Tokens> {
  return { accessToken: app.tokens.sign(principal), refreshToken, tokenType: 'Bearer', expiresIn };
}

// The keys that verify access tokens, for other services that accept these tokens.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { publicKeySet } from '../../src/auth/keyring.js';
import type { Config } from '../../src/config/index.js';

/** RFC 7517 and, for Ed25519, RFC 8037. */
const Jwk = z.object({
  kty: z.string(),
  crv: z.string(),
  x: z.string(),
  y: z.string().optional(),
  kid: z.string(),
  alg: z.string(),
  use: z.literal('sig'),
});

const KeySet = z.object({ keys: z.array(Jwk) }).meta({ id: 'JsonWebKeySet' });

/** Time (s) for which the answer may be cached. A new key is published at least this long before it signs (docs/guide/keys.md). */
const MAX_AGE = 300;

export async function jwksRoutes(fastify: FastifyInstance, { config }: { config: Config }): Promise<void> {
  const keySet = publicKeySet(config.auth.keys);

  fastify.withTypeProvider<ZodTypeProvider>().get(
    '/.well-known/jwks.json',
    {
      config: { access: { scope: 'public' } },
      schema: {
        tags: ['auth'],
        operationId: 'getJsonWebKeySet',
        summary: 'Read the public keys that verify access tokens, as a JWK Set (RFC 7517)',
        response: { 200: KeySet },
      },
    },
    async (_request, reply) => {
      reply.header('cache-control', `public, max-age=${MAX_AGE}`);
      return keySet;
    },
  );
}

// For operators: the keys that encrypt database passwords, and which of them can be retired.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { whole } from '../shapes/fields.js';

const Key = z.object({
  kid: z
    .string()
    .nullable()
    .meta({ description: 'The id of the key in ENCRYPTION_KEYS; null for passwords that no key encrypts.' }),
  held: z.boolean().meta({ description: 'Whether the answering replica has the key.' }),
  current: z.boolean().meta({ description: 'Whether the answering replica encrypts with this key.' }),
  rows: whole.meta({
    description: 'Passwords that are encrypted with this key. A key with none can be removed from ENCRYPTION_KEYS.',
  }),
});

const Keys = z.object({ keys: z.array(Key) }).meta({ id: 'EncryptionKeys' });

export async function encryptionRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  app.describeTag('encryption', 'The keys that encrypt database passwords.');

  app.get(
    '/encryption',
    {
      config: { access: { scope: 'operator' } },
      schema: {
        tags: ['encryption'],
        operationId: 'listEncryptionKeys',
        summary: 'List the keys of database passwords, and how many passwords each key encrypts',
        response: { 200: Keys },
      },
    },
    async () => ({ keys: await app.engine.reencryption.uses() }),
  );
}

// The keys that database passwords are sealed with, as an operator sees them: which one can be retired.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';

const Key = z.object({
  kid: z
    .string()
    .nullable()
    .meta({ description: "The key's id in ENCRYPTION_KEYS; null for what is sealed with none." }),
  held: z.boolean().meta({ description: 'Whether the replica that answers has the key.' }),
  current: z.boolean().meta({ description: 'Whether that replica seals with it.' }),
  rows: z.number().meta({ description: 'Passwords that are sealed with it. A key without any can be taken out.' }),
});

export async function encryptionRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();

  app.get(
    '/encryption',
    {
      config: { access: { scope: 'operator' } },
      schema: {
        tags: ['encryption'],
        summary: 'The keys of database passwords, and how many are sealed with each',
        response: { 200: z.object({ keys: z.array(Key) }) },
      },
    },
    async () => ({ keys: await app.engine.reencryption.uses() }),
  );
}

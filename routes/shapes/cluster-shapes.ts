// What requests and answers about clusters look like.
import { z } from 'zod';
import { clusterFields } from '../../src/clusters/cluster-request.js';
import { answerId, patchOf, timestamp, whole } from './fields.js';

export const ClusterAnswer = z
  .object({
    id: answerId,
    name: z.string(),
    host: z.string(),
    port: whole,
    region: z.string().nullable(),
    isDefault: z
      .boolean()
      .meta({ description: 'Whether this is the default cluster, which TENANT_DATABASE_URL names.' }),
    provisionerUser: z.string(),
    tls: z.enum(['off', 'verify-full']),
    connectionBudget: whole.meta({
      description: 'The most connections that the tenant pools of all replicas open together.',
    }),
    connectionReserve: whole.meta({ description: 'Further connections, kept for creating and removing tenants.' }),
    weight: whole.meta({ description: 'The share of new tenants, relative to the weights of the other clusters.' }),
    accepting: z.boolean().meta({ description: 'Whether new tenants are placed on this cluster.' }),
    standbyTarget: whole.meta({ description: 'How many standby databases to keep ready.' }),
    tenants: whole.meta({ description: 'Tenants on this cluster, in any status.' }),
    standbyDatabases: whole,
    createdAt: timestamp,
    updatedAt: timestamp,
  })
  .meta({ id: 'Cluster' });

export const warnings = z
  .array(z.string())
  .meta({ description: 'Problems of the server that should be fixed, but do not prevent its use.' });

export const CheckAnswer = z
  .object({
    usable: z.boolean(),
    problems: z.array(z.string()).meta({ description: 'Reasons why the server cannot hold tenants.' }),
    warnings,
    version: z
      .string()
      .nullable()
      .meta({ description: 'The version of PostgreSQL; null when the service could not connect.' }),
    clockSkew: z
      .number()
      .nullable()
      .meta({ description: "Milliseconds by which the server's clock is ahead of the answering replica's clock." }),
  })
  .meta({ id: 'ClusterCheck' });

export const PatchClusterBody = patchOf(clusterFields, {}).meta({
  id: 'UpdateCluster',
  examples: [{ weight: 50, accepting: true }],
});

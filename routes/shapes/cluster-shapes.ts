// What requests and answers about clusters look like.
import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { z } from 'zod';
import { answerId, exactText, patchOf, text, timestamp, whole } from './fields.js';

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

/** An IP address or a DNS name: no socket path, no port, nothing that a driver could read as more than a host. */
const host = text(253)
  .refine(
    (value) => isIP(value) !== 0 || /^[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?$/i.test(value),
    'must be a host name or an IP address',
  )
  .meta({ description: 'A host name or an IP address that CLUSTER_HOSTS allows.' });

const wholeFrom = (from: number, to: number): z.ZodNumber => z.number().min(from).max(to).int();

/** Bodies have at most 64 KiB; a certificate chain has about 6. */
const tlsCa = text(30_000).refine(isCertificate, 'must be certificates in PEM').meta({
  description: 'The CA certificates (PEM) to trust with `verify-full`; null uses the built-in list of Node.js.',
});

const fields = {
  name: text(100),
  host,
  port: wholeFrom(1, 65_535),
  region: text(100).nullable(),
  tls: z.enum(['off', 'verify-full']),
  tlsCa: tlsCa.nullable(),
  provisionerPassword: exactText(1_000),
  connectionBudget: wholeFrom(2, 100_000),
  connectionReserve: wholeFrom(2, 1_000),
  weight: wholeFrom(1, 1_000),
  accepting: z.boolean(),
  standbyTarget: wholeFrom(0, 1_000),
} as const;

export const CreateClusterBody = z
  .strictObject({
    name: fields.name,
    host,
    port: fields.port.default(5432),
    region: fields.region.default(null),
    provisionerUser: exactText(63),
    provisionerPassword: fields.provisionerPassword,
    tls: fields.tls.default('verify-full'),
    tlsCa: fields.tlsCa.default(null),
    connectionBudget: fields.connectionBudget,
    connectionReserve: fields.connectionReserve.default(6),
    weight: fields.weight.default(100),
    accepting: fields.accepting.default(true),
    standbyTarget: fields.standbyTarget.default(0),
  })
  .meta({
    id: 'CreateCluster',
    examples: [
      {
        name: 'Frankfurt 1',
        host: 'frankfurt-1.db.example',
        region: 'eu-central',
        provisionerUser: 'tenantry_provisioner',
        provisionerPassword: 'the password of that role',
        connectionBudget: 90,
      },
    ],
  });

export const PatchClusterBody = patchOf(fields, {}).meta({
  id: 'UpdateCluster',
  examples: [{ weight: 50, accepting: true }],
});

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).raw.length > 0;
  } catch {
    return false;
  }
}

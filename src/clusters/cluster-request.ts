// A new cluster as a person describes it: the same for the API and for the command line.
import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { z } from 'zod';
import { exactText, text } from '../lib/input-fields.js';

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

/** The fields that a cluster is registered with, and that can be changed. */
export const clusterFields = {
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
    name: clusterFields.name,
    host,
    port: clusterFields.port.default(5432),
    region: clusterFields.region.default(null),
    provisionerUser: exactText(63),
    provisionerPassword: clusterFields.provisionerPassword,
    tls: clusterFields.tls.default('verify-full'),
    tlsCa: clusterFields.tlsCa.default(null),
    connectionBudget: clusterFields.connectionBudget,
    connectionReserve: clusterFields.connectionReserve.default(6),
    weight: clusterFields.weight.default(100),
    accepting: clusterFields.accepting.default(true),
    standbyTarget: clusterFields.standbyTarget.default(0),
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

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).raw.length > 0;
  } catch {
    return false;
  }
}

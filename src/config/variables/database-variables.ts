// Variables of the PostgreSQL servers: the registry, the server of tenant databases, TLS to both.
import { z } from 'zod';
import { wholeNumber } from '../parsers/number-parsers.js';
import { oneOf } from '../parsers/text-parsers.js';
import type { Variable } from './variable-types.js';

export const databaseVariables = {
  DATABASE_URL: {
    schema: z.string(),
    default: '',
    unit: 'postgres:// URL',
    description:
      'The registry. Its user is the role that reads and writes it. Not set (and not in production): the service starts an embedded PostgreSQL.',
    secret: true,
  },
  MIGRATION_DATABASE_URL: {
    schema: z.string(),
    default: '',
    unit: 'postgres:// URL',
    description:
      'The registry, with its owner as the user. Only `npm run migrate` needs it, and gives the role of DATABASE_URL its rights. Not set: that role is the owner, and could change the audit.',
    secret: true,
  },
  TENANT_DATABASE_URL: {
    schema: z.string(),
    default: '',
    unit: 'postgres:// URL',
    description:
      "The server for tenant databases. Its user is the provisioner. Not set: the registry's server and role.",
    secret: true,
  },
  DATABASE_TLS: {
    schema: oneOf('off', 'verify-full'),
    default: 'off',
    unit: 'off, verify-full',
    description:
      'TLS to PostgreSQL: `verify-full` checks certificate and host name. In production it must be set, also to `off`.',
  },
  DATABASE_CA_FILE: {
    schema: z.string(),
    default: '',
    unit: 'file',
    description: "The CA certificates (PEM) to trust with `verify-full`; empty takes Node's own list.",
  },
  REGISTRY_OUTAGE_GRACE_MS: {
    schema: wholeNumber(0, 86_400_000),
    default: '300000',
    unit: 'ms',
    description: 'How long cached tenants are served while the registry does not answer.',
  },
} as const satisfies Record<string, Variable>;

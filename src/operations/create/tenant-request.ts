// A new tenant as a person asks for it, and how it is made: the same for the API and for the command line.
import { z } from 'zod';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import type { StoredLimits } from '../../../db/registry/registry-schema.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import { AppError } from '../../errors.js';
import { email, exactText, id, newPassword, slug, text } from '../../lib/input-fields.js';
import { parsePoolOptions } from '../../tenants/pool-options.js';
import { slugify } from '../../tenants/tenant-ids.js';
import { limitsInForce, parseLimits } from '../../tenants/tenant-limits.js';
import type { Adoption } from '../adopt/adoption.js';
import type { ConnectionLimits } from '../role-limits.js';
import type { Provisioning } from './create-tenant.js';
import type { GivenKey } from './earlier-requests.js';

/** Checked by its own rules (422), not by the request's schema (400): the setting is wrong, not the request. */
const poolOptions = z.record(z.string(), z.unknown()).meta({
  description:
    'Whole numbers: max (1–100 connections), acquireTimeout (100–60,000 ms), timeout (100–600,000 ms), idleTimeoutMillis (100–3,600,000 ms). An option that is left out keeps its value; in a new tenant it gets the default. null restores the default.',
});

/** Checked like `poolOptions`. */
const limits = z.record(z.string(), z.unknown()).meta({
  description:
    'Whole numbers: requestsPerSecond (1–100,000), connections (1–400), statementTimeout (100–600,000 ms), users (1–1,000,000), products (1–100,000,000), storageBytes (1,048,576–2^50). A limit that is left out keeps its value; in a new tenant it gets the default. null restores the default.',
});

/** The fields that a tenant is made with, and that can be changed. */
export const tenantFields = { name: text(200), poolOptions, limits } as const;

/** As it is spelt in PostgreSQL, which also counts bytes. */
const databaseName = exactText(63).refine((name) => Buffer.byteLength(name) <= 63, 'must be at most 63 bytes long');

const adopt = z.strictObject({ clusterId: id, database: databaseName }).meta({
  description: "An existing database that becomes the tenant's database. The cluster's provisioner must own it.",
});

export const CreateTenantBody = z
  .strictObject({
    name: tenantFields.name,
    slug: slug.optional().meta({ description: 'Derived from the name when it is left out.' }),
    admin: z.strictObject({ email, password: newPassword, firstName: text(100), lastName: text(100) }),
    poolOptions: poolOptions.optional(),
    limits: limits.optional(),
    region: text(100).optional().meta({ description: 'The region of the cluster to create the database on.' }),
    clusterId: id
      .optional()
      .meta({ description: 'The cluster to create the database on; when left out, the least loaded one.' }),
    adopt: adopt.optional(),
  })
  .meta({
    id: 'CreateTenant',
    examples: [
      {
        name: 'Wayne Enterprises',
        slug: 'wayne',
        admin: {
          email: 'bruce@wayne.example',
          password: 'under the mansion',
          firstName: 'Bruce',
          lastName: 'Wayne',
        },
      },
    ],
  });

export type TenantRequest = z.output<typeof CreateTenantBody>;

/** What a request has besides its body. */
export interface TenantRequestOptions {
  /** The Idempotency-Key. */
  readonly requestKey?: GivenKey | undefined;
  /** Called when the request is in order, before its password is hashed. If it rejects, nothing is made. */
  readonly beforeHash?: () => Promise<void>;
}

export interface TenantRequests {
  /**
   * Makes a tenant with its first admin, or makes an existing database one.
   *
   * @throws AppError `invalid-request`, `invalid-pool-options`, `invalid-limits`, and the errors of `Provisioning` and `Adoption`
   */
  make(request: TenantRequest, origin: AuditOrigin, options?: TenantRequestOptions): Promise<TenantRecord>;
}

export function createTenantRequests(deps: {
  readonly provisioning: Provisioning;
  readonly adoption: Adoption;
  readonly connectionLimits: Pick<ConnectionLimits, 'applySoon'>;
  /** The limits of tenants that have none of their own. */
  readonly defaults: StoredLimits;
  readonly hash: (password: string) => Promise<string>;
  /** @throws AppError `invalid-request` */
  readonly refuseWeakPassword: (path: string, password: string, names: readonly (string | undefined)[]) => void;
  /** Names that a guesser knows of a person. */
  readonly namesOf: (person: {
    readonly email: string;
    readonly firstName: string;
    readonly lastName: string;
  }) => readonly (string | undefined)[];
}): TenantRequests {
  return {
    async make(request, origin, { requestKey, beforeHash } = {}) {
      const { name, admin, region, clusterId, adopt } = request;
      const { password, ...person } = admin;
      const given = request.slug ?? slugFrom(name);
      deps.refuseWeakPassword('/admin/password', password, [...deps.namesOf(person), name, given]);
      const poolOptions = parsePoolOptions(request.poolOptions ?? {});
      const limits = parseLimits(request.limits ?? {});
      if (adopt && (region !== undefined || clusterId !== undefined))
        throw new AppError('invalid-request', {
          issues: [{ path: '/adopt', message: 'must not come with region or clusterId: it names the cluster' }],
        });
      await beforeHash?.();
      // The password is hashed while the database is made, which waits for the disk.
      const passwordHash = deps.hash(password);
      passwordHash.catch(() => undefined);
      const wanted = { name, slug: given, poolOptions, limits, requestKey, admin: { ...person, passwordHash } };
      const tenant = adopt
        ? await deps.adoption.adopt(wanted, adopt, origin)
        : await deps.provisioning.create({ ...wanted, wish: { region, clusterId } }, origin);
      if (limitsInForce(tenant.limits, deps.defaults).connections !== undefined)
        await deps.connectionLimits.applySoon(tenant.id);
      return tenant;
    },
  };
}

/** @throws AppError `invalid-request` */
function slugFrom(name: string): string {
  const made = slugify(name);
  if (!slug.safeParse(made).success)
    throw new AppError('invalid-request', {
      issues: [{ path: '/slug', message: 'is needed: no slug can be derived from this name' }],
    });
  return made;
}

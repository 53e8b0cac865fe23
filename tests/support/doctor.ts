// The doctor of a service, in this process: what it finds of a tenant, and what is left after its repairs.
import { findOperatorByEmail } from '../../db/registry/operator-queries.js';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import type { Finding } from '../../src/doctor/findings.js';
import type { Doctor, DoctorWish } from '../../src/doctor/examination.js';
import { OPERATOR, type TestService } from './app.js';

type Service = Pick<TestService, 'app'>;

/** The findings of a tenant. */
export async function findingsOf(service: Service, tenant: { readonly id: string }): Promise<readonly Finding[]> {
  return (await service.app.engine.doctor.examine({ tenants: [tenant.id] })).findings;
}

export function codesOf(findings: readonly Finding[]): string[] {
  return findings.map(({ code }) => code).sort();
}

/** The operator of the tests, as at the command line. */
export async function originOf({ app }: Service): Promise<AuditOrigin> {
  const operator = await findOperatorByEmail(app.engine.registry, OPERATOR.email);
  if (!operator) throw new Error('the registry has no operator');
  return { actor: { kind: 'operator', id: operator.id, atCommandLine: true }, userAgent: 'tenantry doctor' };
}

/** Repairs what can be repaired. Returns what is left, the codes that were repaired in their order, and the problems of repairs. */
export async function mend(
  service: Service,
  wish: DoctorWish,
  doctor: Doctor = service.app.engine.doctor,
): Promise<{ readonly left: readonly Finding[]; readonly repaired: string[]; readonly problems: string[] }> {
  const repaired: string[] = [];
  const problems: string[] = [];
  const { findings } = await doctor.mend(wish, await originOf(service), {
    agree: () => Promise.resolve(),
    repaired({ code }, problem) {
      if (problem === undefined) repaired.push(code);
      else problems.push(problem);
    },
  });
  return { left: findings, repaired, problems };
}

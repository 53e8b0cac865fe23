// The error texts for a tenant that could not be made, or a database that could not be adopted.
import { AppError } from '../../errors.js';

/** The outcome of a failed creation or adoption; `half` if a part could not be undone yet. */
export type Settled = 'undone' | 'half' | 'unknown';

/** @returns AppError `provisioning-failed` */
export function makingFailure(step: string, id: string | undefined, settled: Settled, cause: unknown): AppError {
  const outcomes: Readonly<Record<Settled, string>> = {
    undone: '. Everything was undone. Send the same request again.',
    half: `, and not all of it could be undone yet. The service does that by itself; DELETE /tenants/${id ?? ''} does it at once.`,
    unknown:
      ', and its outcome is not known yet. The service finishes or undoes it by itself. Send the same request again.',
  };
  const detail = `Creating the tenant failed at the step "${step}"${outcomes[settled]}`;
  return new AppError('provisioning-failed', { detail, retryAfter: 5, cause });
}

/** @returns AppError `adoption-failed`. @param migrated whether the database has the tables of this service */
export function adoptionFailure(
  step: string,
  id: string,
  settled: Settled,
  migrated: boolean,
  cause: unknown,
): AppError {
  const detail = adoptionDetail(step, id, settled, migrated);
  return new AppError('adoption-failed', { detail, retryAfter: 5, cause });
}

function adoptionDetail(step: string, id: string, settled: Settled, migrated: boolean): string {
  const failed = `The adoption failed at the step "${step}"`;
  if (settled === 'unknown')
    return `${failed}, and its outcome is not known yet. The service finishes or undoes it by itself: GET /tenants/${id} shows the tenant, or answers 404 when it was undone. The database is kept.`;
  if (settled === 'half')
    return `${failed}, and not all of it could be undone yet. The service does that by itself. The database is kept.`;
  return migrated
    ? `${failed}. It was undone, except for the tables of this service, which stay in the database.`
    : `${failed}. The database is unchanged.`;
}

// What a client reads when a tenant could not be made, or a database not be adopted.
import { AppError } from '../errors.js';

/** The outcome of making or adopting that failed; `half` when a part of it could not be undone yet. */
export type Settled = 'undone' | 'half' | 'unknown';

/** AppError `provisioning-failed`. */
export function makingFailure(step: string, id: string | undefined, settled: Settled, cause: unknown): AppError {
  const outcomes: Readonly<Record<Settled, string>> = {
    undone: '. Everything was undone: the same request can be sent again.',
    half: `, and not all of it could be undone. DELETE /tenants/${id ?? ''} finishes that, and so does the service by itself.`,
    unknown:
      ', and its outcome is not known. The service finishes or undoes it by itself: send the same request again.',
  };
  const detail = `Making the tenant failed at the step "${step}"${outcomes[settled]}`;
  return new AppError('provisioning-failed', { detail, retryAfter: 5, cause });
}

/** AppError `adoption-failed`. @param migrated whether the tables of this service are in the database */
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
  const failed = `Adopting failed at the step "${step}"`;
  if (settled === 'unknown')
    return `${failed}, and its outcome is not known. The service finishes or undoes it by itself: GET /tenants/${id} shows it, or is 404 when it is undone. The database stays.`;
  if (settled === 'half')
    return `${failed}, and not all of it could be undone yet. The service does so by itself; the database stays.`;
  return migrated
    ? `${failed}. It was undone, but for the tables of this service, which stay in the database.`
    : `${failed}. The database is as it was.`;
}

// Sessions of operators that were ended since the moment to which the registry was restored: they are alive again. Which ones is not
// known any more, so the repair ends all.
import { deleteAllSessions } from '../../db/registry/fleet/doctor-queries.js';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { auditAct } from '../audit/operator-act.js';
import type { DoctorRooms } from './doctor-rooms.js';
import { finding, type Finding } from './findings.js';

/** @param findings those of the servers and tenants: they show whether the registry went back in time */
export function examineSessions(rooms: DoctorRooms, findings: readonly Finding[]): Finding[] {
  if (!findings.some(({ code }) => code === 'registry-older' || code === 'database-unnamed')) return [];
  const found =
    'The registry was restored to an earlier moment: sessions of operators that were ended since work again, and so do operators that were deactivated since.';
  const repair = {
    does: 'ends the sessions of all operators, who sign in again',
    async run(origin: AuditOrigin) {
      const ended = await rooms.registry.transaction().execute(async (trx) => {
        const ids = await deleteAllSessions(trx);
        await auditAct(trx, { ...origin, action: 'doctor.repaired', details: { code: 'sessions-revived' } });
        return ids;
      });
      // All are published, also if one is not confirmed in time.
      await Promise.all(ended.map((sessionId) => rooms.publishSession(sessionId)));
    },
  };
  return [finding('sessions-revived', {}, found, { repair })];
}

// One statement for many tenants: `tenantry each`. A run has a lock, and may have an output file that a later process continues.
import { randomUUID } from 'node:crypto';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { PlainError } from '../jobs/plain-words.js';
import { demandStatement } from './one-statement.js';
import type { ServersDeps } from './on-servers.js';
import { continueRunFile, createRunFile, runOfFile } from './run-file.js';
import { runLockName } from './server-guest.js';
import { StatementRun } from './statement-run.js';
import type { StatementHooks, StatementReport, StatementWish } from './statement-wish.js';

export interface FleetStatements {
  /**
   * Audited.
   *
   * @throws UnusableStatement; PlainError about the file; AppError `unauthenticated`; errors of the registry and of `confirm`
   */
  run(wish: StatementWish, origin: AuditOrigin, hooks: StatementHooks): Promise<StatementReport>;
}

export type StatementsDeps = Omit<ServersDeps, 'installation'> & { readonly installation: () => Promise<string> };

export function createFleetStatements(deps: StatementsDeps): FleetStatements {
  return {
    async run(wish, origin, hooks) {
      demandStatement(wish.statement);
      if (wish.write && !wish.file) throw new PlainError('a statement that writes needs a file for its lines');
      const { file } = wish;
      const id = file?.resume ? await runOfFile(file.path, wish) : randomUUID();
      const installation = await deps.installation();
      const ran = await deps.lockSession.attempt(runLockName(id), async () => {
        const opened =
          file && (await (file.resume ? continueRunFile(file.path, wish) : createRunFile(file.path, id, wish)));
        try {
          return await new StatementRun({ ...deps, installation }, wish, origin, hooks, id, opened).all();
        } finally {
          await opened?.close();
        }
      });
      if (!ran) throw new PlainError('another process works on the run of this file');
      return ran.result;
    },
  };
}

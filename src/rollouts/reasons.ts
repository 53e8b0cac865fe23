// Why a database could not be migrated, for the person who runs the migration.
import { HistoryDiffers } from '../../db/shared/migration-history.js';
import { inPlainWords } from '../jobs/plain-words.js';

/** @returns a sentence. The whole error is in the log */
export function reasonOf(error: unknown): string {
  return error instanceof HistoryDiffers ? error.message : `${inPlainWords(error)}.`;
}

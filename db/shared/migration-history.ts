// The history of a database, which is the list of migrations that have run there, compared with this build's list:
//
//     equal     the database has run this build's migrations, and no other
//     behind    it has run the first of them; the others are pending
//     newer     it has run all of them, and after them some that this build does not know, but can work with
//     too-new   the same, and one of the later ones needs a build that knows it (`Migration.needs`)
//     differs   anything else: one is missing or unknown in the middle, or has another content under the same name
//
// A database that differs is refused: what its tables look like is not known. One that is too new is not served.
import type { Migrations } from './migration-types.js';

/** A migration that has run in a database. */
export interface DoneMigration {
  readonly name: string;
  /** The content hash of the migration that ran; null if a former build ran it, which recorded none. */
  readonly hash: string | null;
  /** The newest migration that a build must know to work with the database; null if the migration sets no such bound. */
  readonly needs?: string | null;
}

export interface HistoryVerdict {
  readonly state: 'equal' | 'behind' | 'newer' | 'too-new' | 'differs';
  /** This build's migrations that have not run, in order. */
  readonly pending: readonly string[];
  /** Migrations that have run and are newer than this build's. */
  readonly newer: readonly string[];
  /** The migration that a build must know to work with the database, if this build does not know it. */
  readonly needs: string | undefined;
  /** What differs, in sentences. */
  readonly differences: readonly string[];
}

/** Thrown before anything is changed in a database whose history differs from this build's. */
export class HistoryDiffers extends Error {
  constructor(readonly differences: readonly string[]) {
    super(`The history of the database differs from this build's. ${differences.join(' ')}`);
    this.name = 'HistoryDiffers';
  }
}

export function compareHistory(done: readonly DoneMigration[], migrations: Migrations): HistoryVerdict {
  const own = Object.keys(migrations).sort();
  const latest = own.at(-1) ?? '';
  const ran = new Map(done.map(({ name, hash }) => [name, hash]));
  const pending = own.filter((name) => !ran.has(name));
  const newer = [...ran.keys()].filter((name) => name > latest).sort();
  const differences: string[] = [];
  for (const [name, hash] of [...ran].sort(([one], [other]) => (one < other ? -1 : 1))) {
    const known = migrations[name];
    if (!known && name < latest) differences.push(`It has run ${name}, which this build does not have.`);
    if (known?.hash !== undefined && hash !== null && hash !== known.hash)
      differences.push(`It has run another migration under the name ${name}.`);
  }
  for (const name of pending) {
    const later = [...ran.keys()].filter((other) => other > name).sort()[0];
    if (later !== undefined) differences.push(`It has run ${later}, but not ${name}, which comes before.`);
  }
  const newestNeed =
    done
      .flatMap((each) => each.needs ?? [])
      .sort()
      .at(-1) ?? '';
  const needs = newestNeed > latest ? newestNeed : undefined;
  return { state: stateOf({ pending, newer, needs, differences }), pending, newer, needs, differences };
}

function stateOf({ pending, newer, differences, needs }: Omit<HistoryVerdict, 'state'>): HistoryVerdict['state'] {
  if (differences.length > 0) return 'differs';
  if (needs !== undefined) return 'too-new';
  if (newer.length > 0) return 'newer';
  return pending.length > 0 ? 'behind' : 'equal';
}

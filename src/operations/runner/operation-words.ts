// Operations in plain words, for operators: what each kind does, and what an operator can do about one.
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import type { OperationKindName } from './operation-kinds.js';

interface KindWords {
  /** What it does, as a part of a sentence: `making a tenant`. */
  readonly act: string;
  /** What abandoning it leaves, as a sentence. */
  readonly abandoned: string;
}

const kindWords: Readonly<Record<OperationKindName, KindWords>> = {
  create: {
    act: 'making a tenant',
    abandoned: 'The unfinished tenant is no longer registered. A database that was made for it stays and is reported.',
  },
  adopt: {
    act: 'adopting a database',
    abandoned: 'The unfinished tenant is no longer registered. The database stays with everything that is in it.',
  },
  open: {
    act: "opening a tenant's database",
    abandoned: 'The status of the tenant stays. Its database may stay closed until the status changes again.',
  },
  close: {
    act: "closing a tenant's database",
    abandoned: 'The status of the tenant stays. Its database may stay open until the status changes again.',
  },
  remove: {
    act: 'removing a tenant',
    abandoned: 'A tenant that still has its row is deleted, as before: it can be restored, or purged again.',
  },
  rotate: {
    act: 'changing a database password',
    abandoned: 'Both passwords stay known to the service, so the tenant is served. The next change goes on with them.',
  },
  standby: {
    act: 'making a standby database',
    abandoned: 'The standby database is no longer registered. A job drops what is left of it, if it never held data.',
  },
  withdraw: {
    act: 'dropping a standby database',
    abandoned: 'The standby database is no longer registered. A job drops what is left of it, if it never held data.',
  },
  reencrypt: {
    act: 'encrypting database passwords with the current key',
    abandoned: 'Passwords that are encrypted again stay so. The service may begin another one.',
  },
  template: {
    act: 'making the template database of a cluster',
    abandoned: 'The next migration makes the template, and drops what is left of this one.',
  },
};

/** @returns a part of a sentence; for a kind of a newer build the kind's name */
export function actOf(kind: string): string {
  return wordsOf(kind)?.act ?? `the operation "${kind}"`;
}

/** What is going on with an operation, and what an operator can do: a few sentences. */
export function operationMessage({
  kind,
  state,
  step,
  undoes,
  notBefore,
}: Pick<OperationRecord, 'kind' | 'state' | 'step' | 'undoes' | 'notBefore'>): string {
  const act = actOf(kind);
  const abandoned = wordsOf(kind)?.abandoned ?? '';
  const at = step === null ? '' : ` at the step "${step}"`;
  switch (state) {
    case 'running':
      return `The service is ${act}${at}. Nothing needs to be done.`;
    case 'undoing':
      return `The service was ${act}; a step failed, and it is undoing what it did. Nothing needs to be done.`;
    case 'waiting':
      return step === null
        ? `The service will soon begin: ${act}. Nothing needs to be done.`
        : `The service was ${act}, and waits${at}${undoes ? ', where it undoes what it did' : ''}. ` +
            `It tries again by itself, next at ${notBefore}. Retry to try at once. Abandon to give up. ${abandoned}`;
    case 'needs-person':
      return (
        `The service was ${act}, and stopped${at}, because the database does not carry the evidence that the step needs. ` +
        `It does not go on by itself. Find out why, and retry; or abandon it, which deletes no database. ${abandoned}`
      );
    case 'done':
      return `This operation, ${act}, is done.`;
    case 'undone':
      return `This operation, ${act}, failed, and what it did was undone. The same request can be sent again.`;
    case 'abandoned':
      return `An operator abandoned this operation, ${act}. ${abandoned}`;
  }
}

function wordsOf(kind: string): KindWords | undefined {
  return (kindWords as Readonly<Record<string, KindWords | undefined>>)[kind];
}

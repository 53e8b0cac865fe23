// Refuses a new password that a guesser tries first: a common password, a repetition, a sequence, or the user's and the tenant's
// own names. A password that is verified is never checked here, so older passwords still work.
import { dictionary } from '@zxcvbn-ts/language-common';
import { AppError } from '../errors.js';

/** Shorter words are no passwords: digits around them make something else of them. */
const SHORTEST_WORD = 4;

/** 49,000 passwords and 3 MB: most are shorter than a new password, and are found in one with digits around them. */
const common = new Set(dictionary['passwords-common'].filter((word) => word.length >= SHORTEST_WORD));

/** The longest part that counts as a repetition. */
const LONGEST_PART = 8;

/** Fewer different characters count as a repetition. */
const FEWEST_DIFFERENT = 5;

/** Fewer neighbours are no sequence: "12" and "as" are in many good passwords. */
const SHORTEST_RUN = 3;

/** The alphabet, the digits in a circle, and the rows of keyboards: QWERTY, QWERTZ, AZERTY and Russian. */
const rows = [
  'abcdefghijklmnopqrstuvwxyz',
  '01234567890',
  'qwertyuiop',
  'asdfghjkl',
  'zxcvbnm',
  'qwertzuiop',
  'yxcvbnm',
  'azertyuiop',
  'qsdfghjklm',
  'wxcvbn',
  'йцукенгшщзхъ',
  'фывапролджэ',
  'ячсмитьбю',
];

/** Every pair of neighbours of a row, from left to right. */
const neighbours = new Set(
  rows.flatMap((row) => Array.from(row.slice(1), (next, index) => `${row[index] ?? ''}${next}`)),
);

/** Names shorter than this are in too many passwords. */
const SHORTEST_NAME = 3;

/** The service's own name is one that everybody knows. */
const OWN_NAME = 'tenantry';

/**
 * Why a password is easy to guess, in words that continue "The password …"; undefined if it is not. Upper and lower case, and
 * the forms of one character (NFKC), do not matter.
 *
 * @param names what a guesser knows of the account: its e-mail address, its names, and those of its tenant
 * @example
 *     weaknessOf('Wayne-2026-Wayne', ['wayne']); // 'must not be made of the names of the user and the tenant'
 */
export function weaknessOf(password: string, names: readonly string[]): string | undefined {
  const text = fold(password);
  if (common.has(text)) return 'is one of the most common passwords';
  const [word = ''] = /\p{L}.*\p{L}/su.exec(text) ?? [];
  if (common.has(word)) return 'is a common password with digits or signs around it';
  if (isRepetition(Array.from(text))) return 'must not repeat the same few characters';
  const letters = lettersAndDigits(text);
  if (isSequence(Array.from(letters))) return 'is a sequence of the alphabet, the digits or the keyboard';
  if (isMadeOf(letters, names)) return 'must not be made of the names of the user and the tenant';
  return undefined;
}

/** What a guesser knows of a person. */
export function namesOf(person: {
  readonly email?: string | undefined;
  readonly firstName?: string | undefined;
  readonly lastName?: string | undefined;
}): readonly (string | undefined)[] {
  return [person.email, person.firstName, person.lastName];
}

/**
 * @param path of the password in the body
 * @param names as for `weaknessOf`; undefined values are left out
 * @throws AppError `invalid-request`, which names the path and the reason
 */
export function refuseWeakPassword(path: string, password: string, names: readonly (string | undefined)[]): void {
  const known = names.filter((name) => name !== undefined);
  const message = weaknessOf(password, known);
  if (message !== undefined) throw new AppError('invalid-request', { issues: [{ path, message }] });
}

function fold(text: string): string {
  return text.normalize('NFKC').toLowerCase();
}

function lettersAndDigits(text: string): string {
  return text.replaceAll(/[^\p{L}\p{N}]/gu, '');
}

/** Few different characters, or one short part again and again: the last may be cut. */
function isRepetition(text: readonly string[]): boolean {
  if (new Set(text).size < FEWEST_DIFFERENT) return true;
  const longest = Math.min(LONGEST_PART, text.length / 2);
  for (let part = 1; part <= longest; part += 1) {
    if (text.every((character, index) => index < part || character === text[index - part])) return true;
  }
  return false;
}

/** Runs of neighbours, each from left to right or from right to left, and nothing else. */
function isSequence(text: readonly string[]): boolean {
  let run = 1;
  let directions = { right: true, left: true };
  for (const [index, character] of text.slice(1).entries()) {
    const before = text[index] ?? '';
    const right = directions.right && neighbours.has(before + character);
    const left = directions.left && neighbours.has(character + before);
    if (right || left) {
      run += 1;
      directions = { right, left };
    } else if (run >= SHORTEST_RUN) {
      run = 1;
      directions = { right: true, left: true };
    } else return false;
  }
  return run >= SHORTEST_RUN;
}

/** Names and digits, and nothing else. @param text letters and digits, folded */
function isMadeOf(text: string, names: readonly string[]): boolean {
  const parts = [...names, OWN_NAME]
    .flatMap((name) => [lettersAndDigits(fold(name)), ...fold(name).split(/[^\p{L}\p{N}]+/u)])
    .filter((part) => part.length >= SHORTEST_NAME)
    .toSorted((one, other) => other.length - one.length);
  let rest = text;
  for (const part of parts) rest = rest.replaceAll(part, ' ');
  return rest.includes(' ') && /^[\p{N} ]*$/u.test(rest);
}

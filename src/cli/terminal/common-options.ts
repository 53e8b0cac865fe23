// Options that several commands have.
import { InvalidArgumentError, Option } from 'commander';
import type { PasswordSource } from '../new-password.js';
import type { Given } from './cli-command.js';

export interface Listing {
  readonly limit: number;
}

/** Rows of a list. */
export function limitOption(): Option {
  return new Option('--limit <n>', 'rows at most').argParser(wholeFrom(1, 10_000)).default(100);
}

/** Where a password comes from. It is never an argument, because every user of the machine can read arguments. */
export interface PasswordOptions {
  readonly passwordFile?: string;
  readonly stdin?: boolean;
  readonly makePassword?: boolean;
}

export function passwordOptions(made: boolean): Option[] {
  return [
    new Option('--password-file <file>', 'read the password from this file'),
    new Option('--stdin', 'read the password from standard input'),
    ...(made ? [new Option('--make-password', 'make a password up, and show it this once')] : []),
  ];
}

/** The source of the password that a person has chosen by these options, or by TENANTRY_PASSWORD. */
export function passwordSource({ environment, options, out }: Given<PasswordOptions>): PasswordSource {
  return {
    file: options.passwordFile,
    stdin: options.stdin ?? false,
    variable: environment['TENANTRY_PASSWORD'],
    make: options.makePassword ?? false,
    mayAsk: !out.json,
  };
}

/** Reads a whole number within bounds. */
export function wholeFrom(minimum: number, maximum: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
    if (value >= minimum && value <= maximum) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${minimum} to ${maximum}.`);
  };
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, min: 60_000 };

/** Reads a time such as `500ms`, `15s` or `2min`, within bounds. @param maximum ms @returns ms */
export function timeUpTo(maximum: number): (text: string) => number {
  return (text) => {
    const [, digits = '', unit = ''] = /^(\d{1,9})(ms|s|min)$/.exec(text) ?? [];
    const value = Number(digits) * (UNITS[unit] ?? NaN);
    if (value >= 1 && value <= maximum) return value;
    throw new InvalidArgumentError(`It must be a time from 1ms to ${maximum / 60_000}min, such as 500ms, 15s or 2min.`);
  };
}

/** Reads words with commas between them. @param allowed the words, if only some are */
export function wordList(allowed?: readonly string[]): (text: string) => string[] {
  return (text) => {
    const words = text.split(',').map((word) => word.trim());
    const wrong = words.find((word) => word === '' || (allowed && !allowed.includes(word)));
    if (wrong === undefined) return words;
    throw new InvalidArgumentError(
      `It must be ${allowed ? `of ${allowed.join(', ')}` : 'words'}, with commas between.`,
    );
  };
}

/** Collects `name=number` of an option that can be given several times. */
export function settings(text: string, before: Readonly<Record<string, number>> = {}): Record<string, number> {
  const [, name = '', value = ''] = /^(\w+)=(\d{1,15})$/.exec(text) ?? [];
  if (name === '') throw new InvalidArgumentError('It must be a name, "=" and a whole number.');
  return { ...before, [name]: Number(value) };
}

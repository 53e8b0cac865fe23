// The answer to each SQLSTATE: never 500 for a fault of the server, and a decision for every class of PostgreSQL.
import pg from 'pg';
import { describe, expect, it } from 'vitest';
import { hasSqlState, serverIsFull, statementFault, wasAnswered } from '../../db/driver/database-fault.js';
import { classes, codes, meaningOf } from '../../db/driver/sqlstates.js';
import { toProblem } from '../../src/http/problem.js';
import { blamed } from '../../src/connections/breaker-blame.js';

/** The classes of appendix A in the manuals of PostgreSQL 15 to 18. */
const APPENDIX_A =
  '00 01 02 03 08 09 0A 0B 0F 0L 0P 0Z 10 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 38 39 3B 3D 3F 40 42 44 53 54 55 57 58 72 F0 HV P0 XX'.split(
    ' ',
  );

/** Classes that concern the server, whatever the statement was. */
const SERVERS = ['08', '26', '28', '3D', '40', '53', '54', '55', '57', '58', '72', 'F0', 'HV', 'XX'];

const answer = (code: string, more: Partial<pg.DatabaseError> = {}): pg.DatabaseError =>
  Object.assign(new pg.DatabaseError('canary', 100, 'error'), { severity: 'ERROR', code, ...more });

describe('every class of PostgreSQL', () => {
  it.each(APPENDIX_A)('%s is in the list', (name) => {
    expect(classes).toHaveProperty(name);
  });

  it('and no other is in the list', () => {
    expect(Object.keys(classes).sort()).toEqual([...APPENDIX_A].sort());
    for (const code of Object.keys(codes)) {
      expect(code).toMatch(/^[0-9A-Z]{5}$/);
      expect(meaningOf(code), `${code} repeats its class`).not.toBe(classes[code.slice(0, 2)]);
    }
  });

  it.each(SERVERS)('%s is answered 503 with Retry-After, never 500', (name) => {
    for (const code of [`${name}000`, `${name}999`]) {
      const { status, headers } = toProblem(statementFault(answer(code)) ?? answer(code), 'r');
      expect([code, status]).toEqual([code, 503]);
      expect(headers['retry-after']).toBeDefined();
    }
  });

  it.each(APPENDIX_A.filter((name) => !SERVERS.includes(name)))('%s stays an error of the statement', (name) => {
    // 999: the class as such, without the codes that differ from it.
    expect(statementFault(answer(`${name}999`))).toBeUndefined();
  });
});

describe('a code counts before its class', () => {
  it.each([
    ['0A000', 'unavailable'],
    ['25006', 'unavailable'],
    ['25P03', 'timeout'],
    ['40001', 'busy'],
    ['40P01', 'busy'],
    ['42501', 'unavailable'],
    ['53300', 'unavailable'],
    ['54000', 'unavailable'],
    ['55P03', 'busy'],
    ['57014', 'timeout'],
    ['57P05', 'unavailable'],
    ['XX001', 'unavailable'],
  ])('%s is %s', (code, kind) => {
    expect(statementFault(answer(code))?.kind).toBe(kind);
  });

  it.each(['22P02', '23505', '23514', '40002', '42601', '42P01', 'P0001'])('%s is the statement’s error', (code) => {
    expect(statementFault(answer(code))).toBeUndefined();
  });

  it('a class that is not listed is an error of the statement', () => {
    expect(meaningOf('TN001')).toBe('statement');
    expect(statementFault(answer('ZZ000'))).toBeUndefined();
  });
});

describe('an ERROR in answer to a statement', () => {
  it.each(Object.keys(classes))('opens no breaker in class %s', (name) => {
    const fault = statementFault(answer(`${name}000`));
    expect(fault && blamed(fault)).toBeUndefined();
  });

  it('surely had no effect, and is recognised by its code', () => {
    const fault = statementFault(answer('54000'));
    expect(wasAnswered(fault)).toBe(true);
    expect(hasSqlState(fault, '54000')).toBe(true);
    expect(hasSqlState(fault, '53100')).toBe(false);
  });

  it('differs from the end of a session, and from an unknown end of a statement', () => {
    expect(wasAnswered(statementFault(answer('57P01', { severity: 'FATAL' })))).toBe(false);
    expect(wasAnswered(statementFault(answer('40003')))).toBe(false);
  });

  it('is a lost race if a row of a catalog was changed by two statements at once', () => {
    const fault = statementFault(Object.assign(answer('XX000'), { message: 'tuple concurrently updated' }));
    expect(fault?.kind).toBe('busy');
  });
});

describe('too many connections (53300)', () => {
  it('is a fault of the server unless the role or the database has reached its own limit', () => {
    expect(serverIsFull(answer('53300', { severity: 'FATAL', routine: 'InitProcess' }))).toBe(true);
    expect(serverIsFull(answer('53300', { severity: 'FATAL' }))).toBe(true);
    expect(serverIsFull(answer('53300', { severity: 'FATAL', routine: 'InitializeSessionUserId' }))).toBe(false);
    expect(serverIsFull(answer('53300', { severity: 'FATAL', routine: 'CheckMyDatabase' }))).toBe(false);
    expect(serverIsFull(answer('53100'))).toBe(false);
  });
});

// db/driver/timestamps.ts: times as text. tests/integration tests pools and connections on a server.
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { isoTimestamp, postgresTimestamp } from '../../db/driver/timestamps.js';
import { asSuperuser } from '../support/app.js';

describe('a timestamp of PostgreSQL', () => {
  it.each([
    ['2026-01-31 09:30:00+00', '2026-01-31T09:30:00.000Z'],
    ['2026-01-31 09:30:00.2+00', '2026-01-31T09:30:00.200Z'],
    ['2026-01-31 09:30:00.25+00', '2026-01-31T09:30:00.250Z'],
    ['2026-01-31 09:30:00.025+00', '2026-01-31T09:30:00.025Z'],
    ['2024-02-29 23:59:59.999+00', '2024-02-29T23:59:59.999Z'],
    ['0001-01-01 00:00:00+00', '0001-01-01T00:00:00.000Z'],
    ['9999-12-31 23:59:59+00', '9999-12-31T23:59:59.000Z'],
  ])('%s is %s', (text, iso) => {
    expect(isoTimestamp(text)).toBe(iso);
  });

  it.each([
    ['microseconds, which are cut', '2026-01-31 09:30:00.123999+00', '2026-01-31T09:30:00.123Z'],
    ['another zone', '2026-01-31 09:30:00.25+05:30', '2026-01-31T04:00:00.250Z'],
    ['a zone of whole hours', '2026-01-31 20:30:00-08', '2026-02-01T04:30:00.000Z'],
    ['a year of five digits', '12026-05-06 07:08:09.1+00', '+012026-05-06T07:08:09.100Z'],
  ])('may have %s', (_, text, iso) => {
    expect(isoTimestamp(text)).toBe(iso);
  });

  it.each([
    ['infinity', 'infinity'],
    ['-infinity', '-infinity'],
    ['10000-01-01 00:00:00+00', '+010000-01-01T00:00:00.000Z'],
    ['294276-12-31 23:59:59.999+00', '+294276-12-31T23:59:59.999Z'],
    ['0001-12-31 23:59:59.5+00 BC', '+000000-12-31T23:59:59.500Z'],
    ['0044-03-15 00:00:00+00 BC', '-000043-03-15T00:00:00.000Z'],
    ['4714-11-24 00:00:00+00 BC', '-004713-11-24T00:00:00.000Z'],
  ])('outside the years 1 to 9999, %s, is %s, which PostgreSQL can read again', async (text, iso) => {
    expect(isoTimestamp(text)).toBe(iso);
    await asSuperuser('postgres', async (db) => {
      const { rows } = await sql<{ same: boolean; at: string }>`
        select ${postgresTimestamp(iso)}::timestamptz = ${text}::timestamptz as same, ${text}::timestamptz(3) as at`.execute(
        db,
      );
      expect(rows).toEqual([{ same: true, at: iso }]);
    });
  });

  it('in no form of PostgreSQL is an error, not a wrong date', () => {
    expect(() => isoTimestamp('')).toThrow(RangeError);
  });

  it('in the usual years is sent back to PostgreSQL as it is', () => {
    expect(postgresTimestamp('2026-01-31T09:30:00.250Z')).toBe('2026-01-31T09:30:00.250Z');
  });

  it('is the same moment as a Date, for any millisecond', () => {
    for (let step = 0; step < 2_000; step += 1) {
      const date = new Date(step * 1_234_567_891);
      // As PostgreSQL writes it: a space for the T, and no trailing zeros.
      const text = date
        .toISOString()
        .replace('T', ' ')
        .replace(/\.?0*Z$/, '+00');
      expect(isoTimestamp(text), text).toBe(date.toISOString());
    }
  });

  it('has this form in the result of a query, whatever the time zone of the server', async () => {
    await asSuperuser('postgres', async (db) => {
      const { rows } = await sql`
        select timestamptz(3) '2026-01-31 09:30:00.25+01' as winter, timestamptz(3) '2026-07-31 00:00:00+02' as summer`.execute(
        db,
      );
      expect(rows).toEqual([{ winter: '2026-01-31T08:30:00.250Z', summer: '2026-07-30T22:00:00.000Z' }]);
    });
  });
});

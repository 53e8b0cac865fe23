// Times between PostgreSQL's text and ISO 8601, in both directions. No value is refused: one row with an unusual time must not make
// a list fail.

/**
 * PostgreSQL's `2026-01-31 09:30:00.25+00` as ISO 8601 UTC with milliseconds, `2026-01-31T09:30:00.250Z`. Rewriting the text is
 * several times cheaper than a Date.
 *
 * A year outside 1 to 9999 has a sign and six digits (ISO 8601, expanded): `+012026-01-31T09:30:00.000Z`, and `-000043-…` for
 * 44 BC. `infinity` and `-infinity` stay as they are.
 *
 * @param text a timestamptz in the session's settings: ISO dates, in UTC
 */
export function isoTimestamp(text: string): string {
  // `2026-01-31 09:30:00+00` has 22 characters; a fraction adds up to four. A year of five digits moves the dashes.
  const usual = text.length <= 26 && text[4] === '-' && text[10] === ' ' && text.endsWith('+00');
  const missing = usual ? missingDigits[text.length - 22] : undefined;
  if (missing === undefined) return unusual(text);
  return `${text.slice(0, 10)}T${text.slice(11, -3)}${missing}Z`;
}

/** The digits that are missing from milliseconds, by the length of the fraction with its point: 0, 2, 3 or 4 characters. */
const missingDigits = ['.000', undefined, '00', '0', ''] as const;

/** A year of more than four digits, or before Christ. A Date has fewer years than PostgreSQL. */
const LONG_YEAR = /^(\d{4,6})(-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\+00( BC)?$/;

function unusual(text: string): string {
  if (text === 'infinity' || text === '-infinity') return text;
  const [, year, day, time, fraction = '', era] = LONG_YEAR.exec(text) ?? [];
  // Microseconds, and zones other than UTC.
  if (year === undefined || (year.length === 4 && era === undefined)) return new Date(text).toISOString();
  // ISO 8601 has a year 0, which is 1 BC.
  const counted = era === undefined ? Number(year) : 1 - Number(year);
  const sign = counted < 0 ? '-' : '+';
  const digits = String(Math.abs(counted)).padStart(6, '0');
  return `${sign}${digits}${day ?? ''}T${time ?? ''}.${fraction.slice(0, 3).padEnd(3, '0')}Z`;
}

const EXPANDED = /^([+-]\d{6})(-.*)Z$/;

/** A text of `isoTimestamp` as PostgreSQL reads it. PostgreSQL knows neither the sign nor the year 0. */
export function postgresTimestamp(iso: string): string {
  const [, year, rest] = EXPANDED.exec(iso) ?? [];
  if (year === undefined || rest === undefined) return iso;
  const counted = Number(year);
  const [digits, era] = counted > 0 ? [counted, ''] : [1 - counted, ' BC'];
  return `${String(digits).padStart(4, '0')}${rest}+00${era}`;
}

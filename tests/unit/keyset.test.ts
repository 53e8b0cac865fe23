// db/shared/keyset.ts: a search text is text, not a pattern.
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { containsPattern } from '../../db/shared/keyset.js';
import { asSuperuser } from '../support/app.js';

describe('a search pattern', () => {
  it.each([
    ['lamp', '%lamp%'],
    ['100%', '%100\\%%'],
    ['a_b', '%a\\_b%'],
    ['C:\\x', '%C:\\\\x%'],
    ['\\%', '%\\\\\\%%'],
    ['', '%%'],
  ])('for %j is %j', (text, pattern) => {
    expect(containsPattern(text)).toBe(pattern);
  });

  it('finds its text at any position, as PostgreSQL reads it, and no similar text', async () => {
    // Each text, and one that it would find if one of its characters had a meaning.
    const texts = [
      ['%', 'x'],
      ['_', 'x'],
      ['\\', 'x'],
      ['a%b', 'axxb'],
      ['a_b', 'axb'],
      ['\\%', '%'],
      ['\\_', '_'],
      ['\\\\', '\\'],
      ['%%%', '%%'],
      ['50% off_', '50 off'],
    ] as const;
    await asSuperuser('postgres', async (db) => {
      for (const [text, lookalike] of texts) {
        const pattern = containsPattern(text);
        const { rows } = await sql<Record<'alone' | 'inside' | 'upper' | 'lookalike', boolean>>`
          select ${text}::text ilike ${pattern} as alone, ${`before${text}behind`}::text ilike ${pattern} as inside,
            ${`é${text.toUpperCase()}`}::text ilike ${pattern} as upper, ${lookalike}::text ilike ${pattern} as lookalike`.execute(
          db,
        );
        expect(rows, text).toEqual([{ alone: true, inside: true, upper: true, lookalike: false }]);
      }
    });
  });
});

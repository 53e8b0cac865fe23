// Choices and lists as they are written in environment variables.
import { z } from 'zod';

/** One of the given words, in exactly this spelling. */
export const oneOf = <const T extends readonly [string, ...string[]]>(...values: T): z.ZodType<T[number]> =>
  z.enum(values, `must be one of ${values.join(', ')}`);

/** Entries separated by commas. Spaces around an entry and empty entries are dropped: `a, b,` is `['a', 'b']`. */
export const commaList = z.string().transform((text) =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== ''),
);

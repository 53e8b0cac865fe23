// Numbers as they are written in environment variables: decimal digits only, without sign, unit or separator.
import { z } from 'zod';

/** A whole number from `minimum` to `maximum`. */
export const wholeNumber = (minimum: number, maximum: number): z.ZodType<number> =>
  z
    .string()
    .regex(/^\d{1,12}$/, 'must be a whole number')
    .transform(Number)
    .pipe(z.number().min(minimum, `must be at least ${minimum}`).max(maximum, `must be at most ${maximum}`));

/** A limit from `minimum` to `maximum`; 0 means no limit and becomes undefined. */
export const optionalLimit = ([minimum, maximum]: readonly [number, number]): z.ZodType<number | undefined> =>
  z
    .string()
    .regex(/^\d{1,16}$/, 'must be a whole number')
    .transform((text) => Number(text) || undefined)
    .refine(
      (value) => value === undefined || (value >= minimum && value <= maximum),
      `must be 0 for no limit, or from ${minimum} to ${maximum}`,
    );

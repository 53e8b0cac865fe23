// The building blocks of request and answer schemas. Requests are strict: an unknown key is an error. Answers have no checks, because
// they are only written.
import { z } from 'zod';
import { id } from '../../src/lib/input-fields.js';

export { email, exactText, givenPassword, id, newPassword, slug, text } from '../../src/lib/input-fields.js';

export const idParams = z.strictObject({ id });

/** An amount from 0 to 9,999,999,999.99 with at most two decimal places, as text or as a number; parsed into text. */
export const money = z
  .union([z.string(), z.number()])
  .transform((value) => (Object.is(value, -0) ? '-0' : String(value)))
  .pipe(
    z.string().regex(/^\d{1,10}(?:\.\d{1,2})?$/, 'must be a decimal from 0 to 9999999999.99 with at most two places'),
  )
  .meta({
    // The parsed form has no schema of its own. The number has no multipleOf: in binary, 19.99 is no multiple of 0.01.
    anyOf: [
      { type: 'string', pattern: String.raw`^\d{1,10}(\.\d{1,2})?$` },
      { type: 'number', minimum: 0, maximum: 9_999_999_999.99, description: 'At most two decimal places.' },
    ],
  });

/** A stock from 0 to 2,147,483,647. */
export const stock = z.number().min(0).max(2_147_483_647).int();

/** For the documentation: a query has text, and means a value of another type. */
const inQuery = { enum: undefined, pattern: undefined } as const;

/** `true` or `false` in a query. */
export const flag = z
  .enum(['true', 'false'])
  .transform((value) => value === 'true')
  .meta({ ...inQuery, type: 'boolean' });

/** A whole number from `minimum` to `maximum` in a query, in decimal digits. */
// eslint-disable-next-line @typescript-eslint/explicit-module-boundary-types -- the type is what zod infers
export function wholeInQuery(minimum: number, maximum: number) {
  return (
    z
      .string()
      // A negative or a large number is a whole number: the bounds refuse it, and say so.
      .refine((value) => /^-?\d+$/.test(value), { error: 'must be a whole number in digits', abort: true })
      .transform((value) => Math.min(Number(value), Number.MAX_SAFE_INTEGER))
      .pipe(z.number().min(minimum).max(maximum))
      .meta({ ...inQuery, type: 'integer', minimum, maximum })
  );
}

/** A whole number from 0 to 2,147,483,647 in a query. */
export const count = wholeInQuery(0, 2_147_483_647);

/** A whole number in an answer. */
export const whole = z.number().meta({ type: 'integer' });

/** A time in an answer: ISO 8601 UTC with milliseconds. */
export const timestamp = z.string().meta({ format: 'date-time' });

/** An id in an answer. */
export const answerId = z.string().meta({ format: 'uuid' });

/**
 * A PATCH body: every key is optional, and at least one must be given.
 *
 * @param shape the fields that can be changed
 * @param beside extra fields that are allowed and change nothing by themselves
 */
// eslint-disable-next-line @typescript-eslint/explicit-module-boundary-types -- the type is what zod infers
export function patchOf<Shape extends z.ZodRawShape, Beside extends z.ZodRawShape>(shape: Shape, beside: Beside) {
  return z
    .strictObject({ ...shape, ...beside })
    .partial()
    .refine((body) => Object.keys(body).some((key) => key in shape), 'must have at least one field to change');
}

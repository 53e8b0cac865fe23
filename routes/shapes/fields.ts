// The building blocks of request and answer schemas. Requests are strict: an unknown key is an error, and a string that
// PostgreSQL could not store is refused here. Answers have no checks, because they are only written.
import { domainToASCII } from 'node:url';
import { z } from 'zod';

/**
 * Text of `min` to `max` characters that PostgreSQL can store: no NUL, no lone surrogate. It becomes NFC, so that two ways to type
 * one character are one text: to PostgreSQL they would differ.
 */
export function text(max: number, min = 1): z.ZodString {
  return storable(z.string().normalize('NFC'), max, min);
}

/** The same text as it was sent: for names and passwords that another system compares byte by byte. */
export function exactText(max: number): z.ZodString {
  return storable(z.string(), max, 1);
}

function storable(string: z.ZodString, max: number, min: number): z.ZodString {
  return string
    .min(min)
    .max(max)
    .refine((value) => !value.includes('\0') && value.isWellFormed(), 'must not contain NUL or lone surrogates');
}

/** A UUID in canonical form. It has one spelling, so that no cache key has two. */
export const id = z
  .string()
  .regex(/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/, 'must be a UUID in lower case')
  .meta({ format: 'uuid' });

export const idParams = z.strictObject({ id });

/**
 * An e-mail address of at most 254 characters (RFC 5321), in lower case: two users never differ only in case. It is ASCII, so that an
 * internationalised domain has one spelling too.
 */
export const email = z
  .email({ error: ({ input }) => asciiHint(input) })
  .max(254)
  .toLowerCase();

/** What to write instead of an internationalised domain; undefined if the address has none. */
function asciiHint(input: unknown): string | undefined {
  const [, domain] = /^[^@]+@([^@]+)$/.exec(typeof input === 'string' ? input : '') ?? [];
  if (domain === undefined || domain.length > 253 || isAscii(domain)) return undefined;
  const ascii = domainToASCII(domain);
  return ascii === '' ? undefined : `must be an e-mail address in ASCII: write the domain as "${ascii}"`;
}

function isAscii(value: string): boolean {
  return /^[\x21-\x7e]*$/.test(value);
}

/**
 * NIST SP 800-63B: the length is that of the normal form NFKC, which is what is hashed (src/auth/passwords.ts). The maximum of 200
 * bounds the work of hashing.
 */
export const newPassword = storable(z.string().normalize('NFKC'), 200, 12);

/** A password that is verified, as it was typed: decomposed, 200 characters can be many more. */
export const givenPassword = exactText(1_000);

export const slug = z
  .string()
  .max(63)
  .regex(/^[a-z0-9]+(?:-[a-z0-9]+)*$/, 'must be lower-case letters, digits and single dashes')
  // Sign-in takes a slug or an id, so no slug may look like an id.
  .refine((value) => !id.safeParse(value).success, 'must not look like an id');

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

// The rules of what a person may type: text, ids, e-mail addresses, passwords, slugs. Requests and the command line are checked by the
// same rules. A string that PostgreSQL could not store is refused here.
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

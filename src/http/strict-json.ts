// Strict JSON: refuses texts that JSON readers interpret differently, such as a key given twice or half a character. A small
// scanner runs after JSON.parse, and is no parser of its own: it costs as little as parsing, and the engine defines what JSON is.
import { AppError } from '../errors.js';

/** Levels of nested objects and lists. */
export const MAX_DEPTH = 32;

/** Keys and list items in total; an empty object or list counts as one. */
export const MAX_MEMBERS = 1_000;

/**
 * Parses a JSON text (RFC 8259). Refuses a key given twice in one object, NUL, lone surrogates, the keys `__proto__` and
 * `constructor`, and texts beyond the bounds above. Linear in the length of the text, and not recursive.
 *
 * @throws AppError `invalid-request`, which names the problem by its path
 */
export function parseStrictJson(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Not the engine's message: it quotes the text, which may contain a password.
    throw new AppError('invalid-request', { detail: 'The body is not valid JSON.' });
  }
  scan(text);
  return value;
}

/** An object or a list that is open at the scanner's position. */
interface Container {
  /** The keys so far; undefined for a list. */
  readonly keys: Set<string> | undefined;
  /** The key or index at the scanner's position. */
  at: string | number;
}

const QUOTE = 0x22;
const COMMA = 0x2c;
const LIST_START = 0x5b;
const BACKSLASH = 0x5c;
const LIST_END = 0x5d;
const OBJECT_START = 0x7b;
const OBJECT_END = 0x7d;

/** @param text valid JSON, so that the scanner needs to check only a few characters */
function scan(text: string): void {
  // In a well-formed text without escapes, no string can contain NUL or a lone surrogate.
  const lookInside = text.includes('\\') || !text.isWellFormed();
  const open: Container[] = [];
  let container: Container | undefined;
  let keyIsNext = false;
  let members = 0;
  const refuse = (message: string, path = open.map(({ at }) => `/${at}`).join('')): never => {
    throw new AppError('invalid-request', { issues: [{ path, message }] });
  };
  const count = (): void => {
    members += 1;
    if (members > MAX_MEMBERS) refuse(`must not contain more than ${MAX_MEMBERS} keys and list items`, '');
  };

  for (let index = 0; index < text.length; index += 1) {
    switch (text.charCodeAt(index)) {
      case OBJECT_START:
      case LIST_START: {
        if (open.length === MAX_DEPTH) refuse(`must not be nested deeper than ${MAX_DEPTH} levels`, '');
        count();
        keyIsNext = text.charCodeAt(index) === OBJECT_START;
        container = { keys: keyIsNext ? new Set() : undefined, at: keyIsNext ? '' : 0 };
        open.push(container);
        break;
      }
      case OBJECT_END:
      case LIST_END:
        open.pop();
        container = open.at(-1);
        break;
      case COMMA:
        count();
        keyIsNext = container?.keys !== undefined;
        if (typeof container?.at === 'number') container.at += 1;
        break;
      case QUOTE: {
        const end = endOfString(text, index);
        const isKey = keyIsNext;
        keyIsNext = false;
        if (isKey || lookInside) {
          const content = contentOf(text, index, end);
          if (isKey && container?.keys) {
            container.at = content;
            if (container.keys.has(content)) refuse('must not be given twice');
            if (content === '__proto__' || content === 'constructor') refuse('is not an allowed key');
            container.keys.add(content);
          }
          if (lookInside && (content.includes('\0') || !content.isWellFormed()))
            refuse('must not contain NUL or lone surrogates');
        }
        index = end;
        break;
      }
      default:
    }
  }
}

/** The index of the quote that ends the string which starts at `start`. */
function endOfString(text: string, start: number): number {
  let end = start;
  let backslashes: number;
  do {
    end = text.indexOf('"', end + 1);
    backslashes = 0;
    while (text.charCodeAt(end - 1 - backslashes) === BACKSLASH) backslashes += 1;
  } while (backslashes % 2 === 1);
  return end;
}

function contentOf(text: string, start: number, end: number): string {
  const spelt = text.slice(start + 1, end);
  return spelt.includes('\\') ? (JSON.parse(`"${spelt}"`) as string) : spelt;
}

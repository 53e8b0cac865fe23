// JSON as one reader reads it like every other: what JSON.parse would settle by itself (a key given twice, half a character)
// is refused. A small scanner beside JSON.parse and not a parser of its own: it costs as little as the parsing does, and
// what JSON is stays the engine's business.
import { AppError } from '../errors.js';

/** Levels of objects and lists within one another. */
export const MAX_DEPTH = 32;

/** Keys and list items in all; an empty object or list counts as one. */
export const MAX_MEMBERS = 1_000;

/**
 * The value of a JSON text (RFC 8259) that holds no key twice in one object, no NUL, no lone surrogate, no `__proto__` and
 * no `constructor`, and that stays within the bounds above. Linear in the text, and not recursive.
 *
 * @throws AppError `invalid-request`, which names what is wrong by its path
 */
export function parseStrictJson(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Not the engine's message: it quotes the text, in which a password may stand.
    throw new AppError('invalid-request', { detail: 'The body is not valid JSON.' });
  }
  scan(text);
  return value;
}

/** An object or a list that is open where the scanner stands. */
interface Container {
  /** The keys so far; none in a list. */
  readonly keys: Set<string> | undefined;
  /** The key or the index where the scanner stands. */
  at: string | number;
}

const QUOTE = 0x22;
const COMMA = 0x2c;
const LIST_START = 0x5b;
const BACKSLASH = 0x5c;
const LIST_END = 0x5d;
const OBJECT_START = 0x7b;
const OBJECT_END = 0x7d;

/** @param text valid JSON, which is what lets the scanner look at a few characters only */
function scan(text: string): void {
  // Without an escape no string of a well-formed text can hold what is looked for in strings.
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

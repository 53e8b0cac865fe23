// What a client reads about bad input, in one voice: each message continues the path, as in "/limit must be at most 100". zod asks
// `inOurWords` for the message of every issue that a schema gives no message to. tests/unit/validation-messages.test.ts
// collects the messages of every route, and compares them with a list.
import type { z } from 'zod';
import type { InputIssue } from '../errors.js';

type RawIssue = Parameters<z.core.$ZodErrorMap>[0];
type Issue = z.core.$ZodIssue;

/** The error map to parse with: `schema.safeParse(data, { error: inOurWords })`. */
export const inOurWords: z.core.$ZodErrorMap = (issue) => {
  const { input } = issue;
  if (input === undefined && isRoot(issue)) return 'is missing';
  // A number beyond the range of a double, such as 1e400.
  if (input === Infinity) return 'is too large';
  if (input === -Infinity) return 'is too small';
  return words(issue);
};

/** The error map for the query and the path, where every value is text: a list is a parameter that was given several times. */
export const inOurWordsOnce: z.core.$ZodErrorMap = (issue) =>
  Array.isArray(issue.input) && isRoot(issue) ? 'must not be given more than once' : inOurWords(issue);

/** One issue for each problem. Of several bounds that a value exceeds, only the tightest one. */
export function inputIssues(error: z.ZodError, unknownKey = 'is not known here'): InputIssue[] {
  // A body can have a thousand wrong values: only issues of the same value are compared with each other.
  const ofValues = new Map<string, Issue[]>();
  for (const issue of error.issues.flatMap(nearest)) {
    const path = issue.path.map(pointerTo).join('');
    ofValues.set(path, [...(ofValues.get(path) ?? []), issue]);
  }
  return [...ofValues].flatMap(([path, issues]) =>
    issues
      .filter((issue) => !issues.some((other) => isEnough(other, issue)))
      .flatMap((issue) =>
        issue.code === 'unrecognized_keys'
          ? issue.keys.map((key) => ({ path: path + pointerTo(key), message: unknownKey }))
          : [{ path, message: issue.message }],
      ),
  );
}

/** One step of a JSON Pointer (RFC 6901). */
function pointerTo(key: PropertyKey): string {
  return `/${String(key).replaceAll('~', '~0').replaceAll('/', '~1')}`;
}

/** Whether the issue is about the type of the value, and not about a check of it. */
function isRoot({ code }: RawIssue): boolean {
  return code === 'invalid_type' || code === 'invalid_value' || code === 'invalid_union';
}

function words(issue: RawIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return `must be ${kinds[issue.expected] ?? 'of another kind'}`;
    case 'invalid_value':
      return `must be ${oneOf(issue.values.map(String))}`;
    case 'invalid_format':
      return `must be ${formats[issue.format] ?? 'written in another form'}`;
    case 'too_small': {
      const { origin, minimum, inclusive, exact } = issue;
      const unit = sizes[origin];
      if (unit) return sized(exact ? '' : 'at least ', minimum, unit);
      return `must be ${inclusive === false ? 'more than' : 'at least'} ${minimum}`;
    }
    case 'too_big': {
      const { origin, maximum, inclusive, exact } = issue;
      const unit = sizes[origin];
      if (unit) return sized(exact ? '' : 'at most ', maximum, unit);
      return `must be ${inclusive === false ? 'less than' : 'at most'} ${maximum}`;
    }
    case 'not_multiple_of':
      return `must be a multiple of ${issue.divisor}`;
    case 'invalid_union': {
      const expected = issue.errors.map(([first]) =>
        first?.code === 'invalid_type' ? kinds[first.expected] : undefined,
      );
      const types = [...new Set(expected.filter((kind) => kind !== undefined))];
      return types.length > 0 ? `must be ${oneOf(types)}` : 'must have another form';
    }
    case 'invalid_key':
      return 'has a key that is not allowed';
    case 'invalid_element':
      return 'has an item that is not allowed';
    case 'unrecognized_keys':
      return 'is not known here';
    case 'custom':
      return 'is not allowed';
  }
}

const kinds: Readonly<Partial<Record<string, string>>> = {
  string: 'text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  object: 'an object',
  record: 'an object',
  array: 'a list',
  null: 'null',
};

const formats: Readonly<Partial<Record<string, string>>> = {
  email: 'an e-mail address',
  datetime: 'a time such as 2026-01-31T09:30:00.250Z',
  uuid: 'a UUID',
  url: 'a URL',
};

/** What a length is counted in. */
const sizes: Readonly<Partial<Record<string, readonly [one: string, many: string]>>> = {
  string: ['character', 'characters'],
  array: ['item', 'items'],
  set: ['item', 'items'],
  object: ['key', 'keys'],
};

function sized(bound: string, size: number | bigint, [one, many]: readonly [string, string]): string {
  return `must have ${bound}${size} ${Number(size) === 1 ? one : many}`;
}

function oneOf(values: readonly string[]): string {
  return values.length > 2 ? `one of ${values.join(', ')}` : values.join(' or ');
}

/**
 * A union's issue is that of the branch which the value comes nearest to: a branch of the value's kind. If no branch is of its
 * kind, the issue stays as it is.
 */
function nearest(issue: Issue): Issue[] {
  if (issue.code !== 'invalid_union') return [issue];
  const branch = issue.errors.find(
    (issues) => !issues.some(({ code, path }) => code === 'invalid_type' && path.length === 0),
  );
  if (!branch) return [issue];
  return branch.flatMap((inner) => nearest({ ...inner, path: [...issue.path, ...inner.path] }));
}

/**
 * Whether `other` makes `issue` of the same value needless: it is about the value's kind, which zod measures all the same, or it
 * states a tighter bound.
 */
function isEnough(other: Issue, issue: Issue): boolean {
  if (other === issue) return false;
  if (other.code === 'too_small' && issue.code === 'too_small') return other.minimum > issue.minimum;
  if (other.code === 'too_big' && issue.code === 'too_big') return other.maximum < issue.maximum;
  return other.code === 'invalid_type' && issue.code !== 'invalid_type';
}

// src/http/trace-context.ts: the trace id of `traceparent`, by W3C Trace Context, section 3.2, and of nothing that only looks like
// it.
import { describe, expect, it } from 'vitest';
import { traceIdOf } from '../../src/http/trace-context.js';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const PARENT = 'b7ad6b7169203331';

const of = (traceparent: string | string[] | undefined): string | undefined => traceIdOf({ headers: { traceparent } });

describe('traceparent', () => {
  it.each([
    ['of version 00', `00-${TRACE}-${PARENT}-01`],
    ['that is not sampled', `00-${TRACE}-${PARENT}-00`],
    ['with flags that version 00 does not define', `00-${TRACE}-${PARENT}-ff`],
    ['of a later version, as long as version 00', `cc-${TRACE}-${PARENT}-01`],
    ['of a later version, with more after it', `cc-${TRACE}-${PARENT}-01-what-comes-later`],
    ['of a later version, with only a dash after it', `01-${TRACE}-${PARENT}-01-`],
  ])('%s gives its trace id', (_, header) => {
    expect(of(header)).toBe(TRACE);
  });

  it.each([
    ['that is absent', undefined],
    ['that is empty', ''],
    ['of version ff', `ff-${TRACE}-${PARENT}-01`],
    ['of version 00 with more after it', `00-${TRACE}-${PARENT}-01-more`],
    ['of version 00 with a dash after it', `00-${TRACE}-${PARENT}-01-`],
    ['of a later version with something else than a dash after it', `cc-${TRACE}-${PARENT}-01.more`],
    ['with a trace id of zeros', `00-${'0'.repeat(32)}-${PARENT}-01`],
    ['with a parent id of zeros', `00-${TRACE}-${'0'.repeat(16)}-01`],
    ['in upper case', `00-${TRACE.toUpperCase()}-${PARENT}-01`],
    ['with a version in upper case', `CC-${TRACE}-${PARENT}-01`],
    ['with a short trace id', `00-${TRACE.slice(1)}-${PARENT}-01`],
    ['with a long trace id', `00-${TRACE}0-${PARENT}-01`],
    ['with a short parent id', `00-${TRACE}-${PARENT.slice(1)}-01`],
    ['with one digit of flags', `00-${TRACE}-${PARENT}-1`],
    ['without flags', `00-${TRACE}-${PARENT}`],
    ['with a letter that is no hexadecimal digit', `00-${TRACE.replace('a', 'g')}-${PARENT}-01`],
    ['with a line break after it', `00-${TRACE}-${PARENT}-01\n`],
    ['with a space before it', ` 00-${TRACE}-${PARENT}-01`],
    ['that is sent twice, as Node joins it', `00-${TRACE}-${PARENT}-01, 00-${TRACE}-${PARENT}-01`],
    ['that is a list', [`00-${TRACE}-${PARENT}-01`]],
  ])('%s gives none', (_, header) => {
    expect(of(header)).toBeUndefined();
  });
});

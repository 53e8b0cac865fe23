// The trace that a request belongs to, from the header `traceparent` (W3C Trace Context, Recommendation of November 2021,
// section 3.2). The trace id is written to the log and to problem documents. The service makes no spans and calls no other service.

/** A request head, as Node and Fastify have it. */
interface Head {
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}

/** Version, trace id, parent id and flags. Only the version 00 is known to end here. */
const TRACEPARENT = /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-[\da-f]{2}(-.*)?$/;

/**
 * The trace id of a request: 32 lower-case hexadecimal digits.
 *
 * @returns undefined without `traceparent`, and if the header is malformed, all zeros, sent twice, or of version ff. A later
 *   version is read as version 00, and may have more after it, as the standard requires
 */
export function traceIdOf({ headers }: Head): string | undefined {
  const given = headers['traceparent'];
  return typeof given === 'string' ? parse(given) : undefined;
}

function parse(traceparent: string): string | undefined {
  const [, version, traceId = '', parentId = '', rest] = TRACEPARENT.exec(traceparent) ?? [];
  if (version === undefined || version === 'ff' || (version === '00' && rest !== undefined)) return undefined;
  return isZero(traceId) || isZero(parentId) ? undefined : traceId;
}

function isZero(digits: string): boolean {
  return /^0+$/.test(digits);
}

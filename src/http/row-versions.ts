// Entity tags and preconditions (RFC 9110, sections 8.8.3 and 13).
//
//     ETag: "91b6ea4c03f2d875"               a resource that is one row: the version of the row
//     ETag: "91b6ea4c03f2d875.Zk3xw0uVbQ4"   a resource that also shows other things: a hash of the whole answer follows
//
// If-None-Match compares the whole tag. If-Match compares the version of the row, which is what a change would overwrite: a new
// tenant on a cluster does not refuse a change to the cluster.
import { createHash } from 'node:crypto';
import type { ExpectedVersions, Versioned } from '../../db/shared/row-version.js';
import { AppError } from '../errors.js';

/** An answer that shows more than the row, or something else than the row, with the version for its ETag. */
export function versioned<T extends object>(answer: T, { rowVersion }: Versioned): T & Versioned {
  const hash = createHash('sha256').update(JSON.stringify(answer)).digest('base64url').slice(0, 11);
  return { ...answer, rowVersion: `${rowVersion}.${hash}` };
}

/** The ETag of an answer with this version. */
export function etagOf({ rowVersion }: Versioned): string {
  return `"${rowVersion}"`;
}

/**
 * The versions of the row that an If-Match header accepts. Undefined without the header, and for `*`, which any version matches.
 *
 * @throws AppError `invalid-request`
 */
export function acceptedBy(ifMatch: string | undefined): ExpectedVersions {
  if (ifMatch === undefined || ifMatch.trim() === '*') return undefined;
  const tags = tagsOf(ifMatch);
  if (!tags)
    throw new AppError('invalid-request', {
      detail: 'If-Match must be *, or ETags in double quotes with commas between them: "91b6ea4c03f2d875".',
    });
  return [...new Set(tags.map((tag) => tag.slice(1).split(/[."]/, 1)[0] ?? ''))];
}

/** Whether an If-None-Match header names the ETag. A header that is not valid names none. */
export function names(ifNoneMatch: string | undefined, etag: string): boolean {
  if (ifNoneMatch === undefined) return false;
  return ifNoneMatch.trim() === '*' || (tagsOf(ifNoneMatch)?.includes(etag) ?? false);
}

/** Refuses a change of a row that has another version. Call it under the row's lock. @throws AppError `precondition-failed` */
export function demandVersion({ rowVersion }: Versioned, expected: ExpectedVersions): void {
  if (expected && !expected.includes(rowVersion)) throw new AppError('precondition-failed');
}

/** One tag of a list, with the comma after it. Lists may have empty elements (RFC 9110, section 5.6.1.2). */
const TAG = /[\t ,]*(?:W\/)?("[\x21\x23-\x7e\x80-\xff]*")[\t ]*(?:,|$)/y;

/** The tags of a list, without `W/`: a proxy that compresses answers makes tags weak. Undefined if the list is not valid. */
function tagsOf(list: string): string[] | undefined {
  const tags: string[] = [];
  TAG.lastIndex = 0;
  let end = 0;
  for (let found = TAG.exec(list); found; found = TAG.exec(list)) {
    tags.push(found[1] ?? '');
    end = TAG.lastIndex;
  }
  return tags.length > 0 && /^[\t ,]*$/.test(list.slice(end)) ? tags : undefined;
}

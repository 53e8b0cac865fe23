// README.md and docs/**/*.md: every relative link leads to a file, and to a heading of that file if it has a fragment.
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { brokenLinks, linksOf, PAGES, readPage } from '../support/docs.js';

describe('a relative link', () => {
  it.each(PAGES)('of %s leads to a file, and to a heading that the file has', (page) => {
    expect(brokenLinks(page)).toEqual([]);
  });

  it('is broken if its file or its heading does not exist, even on its own page', () => {
    const page = [
      '# One heading',
      'Good: [a](#one-heading), [b](../README.md), [c](guide/keys.md#make-a-key), [d](https://example.com/no.md#no).',
      'In code: `[e](no-such.md)`.',
      'Bad: [f](no-such.md), [g](#another-heading), [h](guide/keys.md#no-such-heading), [i](keys.md).',
    ].join('\n');
    expect(brokenLinks('docs/made-up.md', page)).toEqual([
      'no-such.md',
      '#another-heading',
      'guide/keys.md#no-such-heading',
      'keys.md',
    ]);
  });
});

it('the index links to every page of docs/ once', () => {
  const targets = linksOf(readPage('docs/README.md')).filter((target) => target.endsWith('.md'));
  const listed = targets.map((target) => path.posix.join('docs', target));
  const pages = PAGES.filter((page) => page.startsWith('docs/') && page !== 'docs/README.md');
  expect(listed.toSorted()).toEqual(pages.toSorted());
});

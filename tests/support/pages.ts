// Reads lists from their first page to their last.
import type { PageOf, Send } from './service.js';

/** The rows of every page. @param url with a query. @throws Error if a page is refused */
export async function pagesOf<Row>(send: Send, url: string, token: string): Promise<Row[][]> {
  const pages: Row[][] = [];
  let cursor: string | null = null;
  do {
    const { status, text, body }: Awaited<ReturnType<typeof send<PageOf<Row>>>> = await send<PageOf<Row>>(
      'GET',
      cursor === null ? url : `${url}&cursor=${cursor}`,
      { token },
    );
    if (status !== 200) throw new Error(text);
    pages.push(body.data);
    cursor = body.nextCursor;
  } while (cursor !== null);
  return pages;
}

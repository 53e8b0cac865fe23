// The examples of the API's description are answered 2xx, and the page at /docs sends them. From the page, in Chromium, an example
// takes seconds: some of them are sent here, and all of them by `npm run proofs -- api-page`.
import { describe, expect, it, onTestFinished } from 'vitest';
import { openBrowser } from '../support/api-page.js';
import { sendFromPage } from '../support/example-page.js';
import { operationsInOrder, sendExamples, startUnused } from '../support/examples.js';
import { isMissing, skipNote } from '../support/programs.js';

/** What a reader does first: sign in, make a tenant, sign in there, and read and write. */
const FROM_PAGE = ['signInOperator', 'createTenant', 'signIn', 'getMe', 'createProduct', 'getProduct', 'listTenants'];

describe('the examples of the API', () => {
  it('are all answered 2xx', { timeout: 120_000 }, async () => {
    const service = await startUnused();
    onTestFinished(() => service.close());
    const operations = await operationsInOrder(service);
    expect(operations.length).toBeGreaterThan(50);
    let token = '';
    await sendExamples(service, operations, {
      authorize: (given) => {
        token = given;
        return Promise.resolve();
      },
      send: async ({ method, path, scope, example }, { id, body = example }) => {
        const answer = await service.send(method as 'GET', path.replace('{id}', id ?? ''), {
          ...(scope !== 'public' && { token }),
          ...(body && { body }),
        });
        return { status: answer.status, text: answer.text, sent: body ? JSON.stringify(body) : null };
      },
    });
  });
});

describe.skipIf(isMissing('chromium'))(`the page at /docs in Chromium${skipNote('chromium')}`, () => {
  it('answers 2xx to a few examples, and keeps the authorization over a reload', { timeout: 240_000 }, async () => {
    const service = await startUnused();
    onTestFinished(() => service.close());
    const browser = await openBrowser();
    onTestFinished(() => browser.close());
    const operations = (await operationsInOrder(service)).filter(({ operationId }) => FROM_PAGE.includes(operationId));
    expect(operations.length).toBe(FROM_PAGE.length);
    await sendFromPage(browser, service, operations);
  });
});

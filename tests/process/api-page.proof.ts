// Every operation of the API, sent from the page at /docs in Chromium with the example that the page shows.
import { describe, expect, it, onTestFinished } from 'vitest';
import { openBrowser } from '../support/api-page.js';
import { sendFromPage } from '../support/example-page.js';
import { operationsInOrder, startUnused } from '../support/examples.js';
import { isMissing, skipNote } from '../support/programs.js';

describe.skipIf(isMissing('chromium'))(`the page at /docs in Chromium${skipNote('chromium')}`, () => {
  it('answers 2xx to every example', { timeout: 300_000 }, async () => {
    const service = await startUnused();
    onTestFinished(() => service.close());
    const browser = await openBrowser();
    onTestFinished(() => browser.close());
    const operations = await operationsInOrder(service);
    expect(operations.length).toBeGreaterThan(50);
    await sendFromPage(browser, service, operations);
  });
});

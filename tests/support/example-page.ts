// Chromium as a sender of examples.
import { expect } from 'vitest';
import type { Browser } from 'playwright-core';
import type { TestService } from './app.js';
import { ApiPage } from './api-page.js';
import { groupOf, sendExamples, type Operation } from './examples.js';
import { listen } from './wire.js';

/** Sends the examples of these operations from the page at /docs, and expects what the page promises. */
export async function sendFromPage(
  browser: Browser,
  service: TestService,
  operations: readonly Operation[],
): Promise<void> {
  const url = `http://127.0.0.1:${await listen(service)}`;
  const page = await ApiPage.open(browser, `${url}/`);
  expect(page.address).toBe(`${url}/docs`);
  expect(await page.title()).toBe('Tenantry API');
  expect(await page.text()).toMatch(/^Tenantry/);
  expect(await page.text()).not.toMatch(/swagger|fastify/i);
  expect(await page.isAuthorized()).toBe(false);

  // The first operations are sent from the whole page.
  const groups = ['user', 'operator', 'last'].map((name) =>
    operations.filter((operation) => groupOf(operation) === name).map(({ operationId }) => operationId),
  );
  await sendExamples(service, operations, {
    authorize: (token) => page.authorize(token),
    prepare: async ({ operationId }) => {
      const others = groups.find(([first]) => first === operationId);
      if (others) await page.showOnly(others);
      if (operationId !== 'getMe') return;
      await page.reload();
      expect(await page.isAuthorized()).toBe(true);
    },
    send: (operation, given) => page.send(operation, given),
  });
  expect(page.offences).toEqual([]);
}

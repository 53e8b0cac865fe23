// Chromium on the page at /docs: what a reader does there, by the names that Swagger UI gives to its elements.
import { chromium, type Browser, type Page } from 'playwright-core';
import { fileOf } from './programs.js';

/** An operation of the OpenAPI document, as the page shows it. */
export interface ShownOperation {
  readonly tag: string;
  readonly operationId: string;
  readonly method: string;
  /** Such as `/products/{id}`. */
  readonly path: string;
}

/** An answer that the page has received and shown. */
export interface ShownAnswer {
  readonly status: number;
  readonly text: string;
  /** The body of the request, as it was sent. */
  readonly sent: string | null;
}

/** Close it. @throws Error without Chromium */
export async function openBrowser(): Promise<Browser> {
  const executablePath = fileOf('chromium');
  if (executablePath === undefined) throw new Error('chromium is not installed');
  // Its sandbox does not work under root.
  return chromium.launch({ executablePath, args: ['--disable-gpu'], chromiumSandbox: process.getuid?.() !== 0 });
}

export class ApiPage {
  /** Requests to another origin, and what the page may not do by its policy. */
  readonly offences: string[] = [];
  /** The operations that are shown; undefined for all. */
  private only: readonly string[] | undefined;

  private constructor(private readonly page: Page) {}

  static async open(browser: Browser, url: string): Promise<ApiPage> {
    const page = await browser.newPage({ viewport: { width: 1_200, height: 900 } });
    page.setDefaultTimeout(60_000);
    const opened = new ApiPage(page);
    page.on('request', (request) => {
      if (/^https?:/.test(request.url()) && new URL(request.url()).origin !== new URL(url).origin)
        opened.offences.push(request.url());
    });
    page.on('console', (message) => {
      if (message.text().includes('Content Security Policy')) opened.offences.push(message.text());
    });
    page.on('pageerror', (error) => opened.offences.push(error.message));
    await page.route('**/docs/json', async (route) => {
      const answer = await route.fetch();
      const document = (await answer.json()) as PageDocument;
      await route.fulfill({
        response: answer,
        json: opened.only === undefined ? document : part(document, opened.only),
      });
    });
    await page.goto(url);
    await opened.ready();
    return opened;
  }

  get address(): string {
    return this.page.url();
  }

  async title(): Promise<string> {
    return this.page.title();
  }

  async text(): Promise<string> {
    return this.page.locator('body').innerText();
  }

  async reload(): Promise<void> {
    await this.page.reload();
    await this.ready();
  }

  /**
   * Reloads the page with some operations, and without their errors. For each operation that is opened, Swagger UI follows every
   * reference of the document and shows an example of each error, which takes most of the time.
   */
  async showOnly(operationIds: readonly string[]): Promise<void> {
    this.only = operationIds;
    await this.reload();
  }

  /** Whether the page has a token. */
  async isAuthorized(): Promise<boolean> {
    return (await this.page.locator('.scheme-container .btn.authorize.locked').count()) === 1;
  }

  /** Gives the page a token, instead of the one that it has. */
  async authorize(token: string): Promise<void> {
    await this.page.locator('.scheme-container .btn.authorize').click();
    const dialog = this.page.locator('.dialog-ux');
    const remove = dialog.locator('.auth-btn-wrapper button:not(.authorize):not(.btn-done)');
    if ((await remove.count()) > 0) await remove.click();
    await dialog.locator('input').fill(token);
    await dialog.locator('.auth-btn-wrapper button.authorize').click();
    await dialog.locator('.btn-done').click();
  }

  /**
   * Sends an operation with its example, or with another body.
   *
   * @param given the id in its path, and a body instead of the example
   */
  async send(operation: ShownOperation, given: { readonly id?: string; readonly body?: object }): Promise<ShownAnswer> {
    const { tag, operationId, method, path } = operation;
    const block = this.page.locator(`#operations-${tag}-${operationId}`);
    await block.locator('.opblock-summary-control').click();
    if (given.id !== undefined) await block.locator('tr[data-param-name="id"] input').fill(given.id);
    if (given.body) await block.locator('textarea.body-param__text').fill(JSON.stringify(given.body));
    const pattern = new RegExp(`^${path.replaceAll('.', '\\.').replaceAll(/\{\w+\}/g, '[^/]+')}$`);
    const received = this.page.waitForResponse(
      (response) => response.request().method() === method && pattern.test(new URL(response.url()).pathname),
    );
    await block.locator('button.execute').click();
    const response = await received;
    const shown = await block.locator('.live-responses-table .response-col_status').last().innerText();
    await block.locator('.opblock-summary-control').click();
    const status = Number.parseInt(shown, 10);
    if (status !== response.status()) throw new Error(`the page shows ${shown} for ${response.status()}`);
    return { status, text: status === 204 ? '' : await response.text(), sent: response.request().postData() };
  }

  private async ready(): Promise<void> {
    await this.page.locator('.opblock').first().waitFor();
  }
}

/** The parts of the document that are left out of a part of it. */
interface PageDocument {
  readonly paths: Readonly<Record<string, Readonly<Record<string, PageOperation>>>>;
  readonly components: Readonly<Record<string, object>> & { readonly schemas: Readonly<Record<string, object>> };
}

interface PageOperation {
  readonly operationId: string;
  readonly responses: Readonly<Record<string, object>>;
}

/** The document with some operations, without their errors, and with the schemas that they need. */
function part(document: PageDocument, operationIds: readonly string[]): PageDocument {
  const paths = pick(
    map(document.paths, (operations) =>
      map(
        pick(operations, (_method, { operationId }) => operationIds.includes(operationId)),
        (operation) => ({ ...operation, responses: pick(operation.responses, (status) => status.startsWith('2')) }),
      ),
    ),
    (_path, operations) => Object.keys(operations).length > 0,
  );
  const { responses: _errors, schemas, ...components } = document.components;
  const needed = new Set<string>();
  const visit = (value: object): void => {
    for (const [, name = ''] of JSON.stringify(value).matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
      if (needed.has(name)) continue;
      needed.add(name);
      visit(schemas[name] ?? {});
    }
  };
  visit(paths);
  return { ...document, paths, components: { ...components, schemas: pick(schemas, (name) => needed.has(name)) } };
}

function pick<Value>(
  values: Readonly<Record<string, Value>>,
  wanted: (key: string, value: Value) => boolean,
): Record<string, Value> {
  return Object.fromEntries(Object.entries(values).filter(([key, value]) => wanted(key, value)));
}

function map<Value, Made>(values: Readonly<Record<string, Value>>, make: (value: Value) => Made): Record<string, Made> {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [key, make(value)]));
}

// Every operation of the API, sent from the page at /docs in Chromium with the example that the page shows. An id in a path is that
// of what another example created.
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { Browser } from 'playwright-core';
import { insertOperator } from '../../db/registry/operator-queries.js';
import { OPERATORS } from '../../src/auth/passwords.js';
import { startService, type TestService } from '../support/app.js';
import { ApiPage, openBrowser, type ShownOperation } from '../support/api-page.js';
import { secondPlace } from '../support/cluster.js';
import { dereferenced } from '../support/dereferenced.js';
import { recordStoppedOperations } from '../support/operations.js';
import { isMissing, skipNote } from '../support/programs.js';
import { listen } from '../support/wire.js';

interface Operation extends ShownOperation {
  readonly scope: string;
  readonly example: object | undefined;
}

interface Document {
  readonly paths: Readonly<
    Record<
      string,
      Readonly<
        Record<
          string,
          {
            readonly operationId: string;
            readonly tags: readonly [string];
            readonly requestBody?: { readonly content: { 'application/json': { readonly example: object } } };
          }
        >
      >
    >
  >;
}

interface SignedIn {
  readonly accessToken: string;
  readonly refreshToken: string;
}

/** As after the first start: there is an operator, and no tenant. */
const PASSWORD_OF_EXAMPLE = 'the one that npm start printed';

/** These come first: the others need a tenant and the tokens. */
const FIRST = ['signInOperator', 'createTenant', 'signIn', 'getMe'];

/** These come last, in this order: they end sessions and the tenant. */
const LAST = [
  'endSession',
  'refreshTokens',
  'changePassword',
  'signOut',
  'signOutEverywhere',
  'suspendTenant',
  'resumeTenant',
  'rotateTenantPassword',
  'signOutTenant',
  'deleteTenant',
  'restoreTenant',
  'purgeTenant',
];

let service: TestService;
let url: string;
let browser: Browser;

describe.skipIf(isMissing('chromium'))(`the page at /docs in Chromium${skipNote('chromium')}`, () => {
  beforeAll(async () => {
    service = await startService({ env: { CLUSTER_HOSTS: secondPlace(inject('cluster')).host } });
    const { registry, passwords } = service.app.engine;
    const passwordHash = await passwords.hash(PASSWORD_OF_EXAMPLE, OPERATORS);
    await insertOperator(registry, { email: 'operator@tenantry.local', passwordHash });
    url = `http://127.0.0.1:${await listen(service)}`;
    browser = await openBrowser();
  }, 120_000);
  afterAll(async () => {
    await browser.close();
    await service.close();
  });

  it('answers 2xx to every example, and keeps the authorization over a reload', { timeout: 300_000 }, async () => {
    const operations = await operationsInOrder();
    expect(operations.length).toBeGreaterThan(50);
    const page = await ApiPage.open(browser, `${url}/`);
    expect(page.address).toBe(`${url}/docs`);
    expect(await page.title()).toBe('Tenantry API');
    expect(await page.text()).toMatch(/^Tenantry/);
    expect(await page.text()).not.toMatch(/swagger|fastify/i);
    expect(await page.isAuthorized()).toBe(false);

    const tokens = { operator: '', user: '' };
    let refreshToken = '';
    let authorizedAs = '';
    /** The id of what was created last, by the address of its collection. */
    const created = new Map<string, string>();
    const stopped = await recordStoppedOperations(service, 2);

    /** What a reader has to know besides the examples. */
    const prepare: Readonly<Record<string, () => Promise<{ id?: string; body?: object }>>> = {
      createCluster: async () => ({ body: serverOfTest(operations) }),
      refreshTokens: async () => ({ body: { refreshToken } }),
      endSession: async () => ({ id: await otherSession(operations) }),
      getOperation: async () => ({ id: String(stopped[0]) }),
      retryOperation: async () => ({ id: String(stopped[0]) }),
      abandonOperation: async () => ({ id: String(stopped[1]) }),
      signOutEverywhere: async () => {
        tokens.user = (await signInAgain(operations)).accessToken;
        authorizedAs = '';
        return {};
      },
      purgeTenant: async () => {
        const id = created.get('/tenants') ?? '';
        await service.send('DELETE', `/tenants/${id}`, { token: tokens.operator });
        return { id };
      },
    };

    // The first operations are sent from the whole page.
    const groups = ['user', 'operator', 'last'].map((name) =>
      operations.filter((operation) => groupOf(operation) === name).map(({ operationId }) => operationId),
    );
    const refused: string[] = [];
    for (const operation of operations) {
      const { operationId, scope, method, path, example } = operation;
      const given = (await prepare[operationId]?.()) ?? {};
      const caller = scope === 'operator' ? 'operator' : 'user';
      if (scope !== 'public' && authorizedAs !== caller) {
        await page.authorize(tokens[caller]);
        authorizedAs = caller;
      }
      const others = groups.find(([first]) => first === operationId);
      if (others) await page.showOnly(others);
      if (operationId === 'getMe') {
        await page.reload();
        expect(await page.isAuthorized()).toBe(true);
      }
      const collection = path.split('/{')[0] ?? '';
      const id = path.includes('{') ? (given.id ?? created.get(collection) ?? '') : undefined;
      const answer = await page.send(operation, { ...given, ...(id !== undefined && { id }) });
      // A busy disk drops a database after the deadline of the request: then the answer promises the end, which must come.
      if (answer.text.includes('operation-unfinished')) await endOf(answer.text, tokens.operator);
      else if (answer.status >= 300) refused.push(`${operationId}: ${answer.status} ${answer.text}`);
      if (example) expect([operationId, JSON.parse(answer.sent ?? '')]).toEqual([operationId, given.body ?? example]);
      if (answer.status === 201 && path === collection)
        created.set(collection, (JSON.parse(answer.text) as { id: string }).id);
      if (operationId === 'signInOperator') tokens.operator = (JSON.parse(answer.text) as SignedIn).accessToken;
      if (operationId === 'signIn') {
        const signedIn = JSON.parse(answer.text) as SignedIn;
        tokens.user = signedIn.accessToken;
        refreshToken = signedIn.refreshToken;
      }
      expect(method).toMatch(/^(?:GET|POST|PATCH|DELETE)$/);
    }
    expect(refused).toEqual([]);
    expect(page.offences).toEqual([]);
  });
});

/** Every operation of the document, in an order in which each finds what it needs. */
async function operationsInOrder(): Promise<Operation[]> {
  const { body } = await service.send<Document>('GET', '/docs/json');
  const scopes = new Map(
    service.app.routeTable.map(({ method, url: address, access }) => [
      `${method} ${address.replaceAll(/:(\w+)/g, '{$1}')}`,
      access.scope,
    ]),
  );
  const operations = Object.entries(dereferenced(body).paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(
      ([
        verb,
        {
          operationId,
          tags: [tag],
          requestBody,
        },
      ]) => {
        const method = verb.toUpperCase();
        const scope = scopes.get(`${method} ${path}`) ?? 'none';
        return { operationId, tag, method, path, scope, example: requestBody?.content['application/json'].example };
      },
    ),
  );
  const rank = (operation: Operation): number[] => {
    const { operationId, method, path } = operation;
    const creates = method === 'POST' && !path.includes('{');
    return [
      ['first', 'user', 'operator', 'last'].indexOf(groupOf(operation)),
      FIRST.indexOf(operationId),
      LAST.indexOf(operationId),
      creates ? 0 : method === 'DELETE' ? 2 : 1,
    ];
  };
  return operations.sort((one, other) => {
    const ranks = [rank(one), rank(other)] as const;
    const differing = ranks[0].findIndex((value, index) => value !== ranks[1][index]);
    return (ranks[0][differing] ?? 0) - (ranks[1][differing] ?? 0);
  });
}

/** Operations that one caller sends one after the other. */
function groupOf({ operationId, scope }: Operation): 'first' | 'user' | 'operator' | 'last' {
  if (FIRST.includes(operationId)) return 'first';
  if (LAST.includes(operationId)) return 'last';
  return scope === 'operator' ? 'operator' : 'user';
}

function exampleOf(operations: readonly Operation[], id: string): object {
  const example = operations.find(({ operationId }) => operationId === id)?.example;
  if (!example) throw new Error(`${id} has no example`);
  return example;
}

/** The example names a server that exists for its reader only: here, the server of the tests at its other address. */
function serverOfTest(operations: readonly Operation[]): object {
  const cluster = inject('cluster');
  const { user: provisionerUser, password: provisionerPassword } = cluster.provisioner;
  const server = { ...secondPlace(cluster), provisionerUser, provisionerPassword, tls: 'off', connectionBudget: 20 };
  return { ...exampleOf(operations, 'createCluster'), ...server };
}

/** Begins another session of the examples' user, and returns its id. */
async function otherSession(operations: readonly Operation[]): Promise<string> {
  const body = exampleOf(operations, 'signIn');
  const { accessToken: token } = (await service.send<SignedIn>('POST', '/auth/login', { body })).body;
  const { body: sessions } = await service.send<{ data: { id: string; current: boolean }[] }>('GET', '/auth/sessions', {
    token,
  });
  return sessions.data.find(({ current }) => current)?.id ?? '';
}

/** Signs in with the password that the example changed to. */
async function signInAgain(operations: readonly Operation[]): Promise<SignedIn> {
  const { newPassword: password } = exampleOf(operations, 'changePassword') as { newPassword: string };
  const body = { ...exampleOf(operations, 'signIn'), password };
  return (await service.send<SignedIn>('POST', '/auth/login', { body })).body;
}

/** Waits until the operation that an answer names is done. */
async function endOf(answer: string, token: string): Promise<void> {
  const { operationId } = JSON.parse(answer) as { operationId: string };
  const state = async (): Promise<unknown> =>
    (await service.send('GET', `/operations/${operationId}`, { token })).body['state'];
  await expect.poll(state, { timeout: 30_000 }).toBe('done');
}

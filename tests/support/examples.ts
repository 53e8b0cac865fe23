// The examples of the API's description, sent one after the other: an id in a path is that of what another example created.
import { expect, inject } from 'vitest';
import { insertOperator } from '../../db/registry/operator-queries.js';
import { OPERATORS } from '../../src/auth/passwords.js';
import { startService, type TestService } from './app.js';
import type { ShownAnswer, ShownOperation } from './api-page.js';
import { secondPlace } from './cluster.js';
import { dereferenced } from './dereferenced.js';
import { insertStoppedRollout, insertUnreached } from './rollout-rows.js';
import { recordStoppedOperations } from './operations.js';

export interface Operation extends ShownOperation {
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

/** What a reader has to know besides an example. */
export interface Given {
  readonly id?: string;
  readonly body?: object;
}

/** Who sends the examples. */
export interface ExampleSender {
  /** Called before each operation is sent. */
  prepare?(operation: Operation): Promise<void>;
  authorize(token: string): Promise<void>;
  send(operation: Operation, given: Given): Promise<ShownAnswer>;
}

/** A service as after its first start: there is an operator, and no tenant. */
export async function startUnused(): Promise<TestService> {
  const service = await startService({ env: { CLUSTER_HOSTS: secondPlace(inject('cluster')).host } });
  const { registry, passwords } = service.app.engine;
  const passwordHash = await passwords.hash(PASSWORD_OF_EXAMPLE, OPERATORS);
  await insertOperator(registry, { email: 'operator@tenantry.local', passwordHash });
  return service;
}

/**
 * Sends the examples of these operations, in their order, and expects 2xx from each.
 *
 * @param operations some of those of operationsInOrder: the first four, and for each what creates its resource
 */
export async function sendExamples(
  service: TestService,
  operations: readonly Operation[],
  sender: ExampleSender,
): Promise<void> {
  const tokens = { operator: '', user: '' };
  let refreshToken = '';
  let authorizedAs = '';
  /** The id of what was created last, by the address of its collection. */
  const created = new Map<string, string>();
  const stopped = await recordStoppedOperations(service, 2);

  const prepare: Readonly<Record<string, () => Promise<Given>>> = {
    createCluster: async () => ({ body: serverOfTest(operations) }),
    refreshTokens: async () => ({ body: { refreshToken } }),
    endSession: async () => ({ id: await otherSession(service, operations) }),
    getOperation: async () => ({ id: String(stopped[0]) }),
    retryOperation: async () => ({ id: String(stopped[0]) }),
    abandonOperation: async () => ({ id: String(stopped[1]) }),
    startRollout: async () => {
      await insertUnreached(service.app.engine.registry, 2);
      return {};
    },
    // A rollout in a state in which it can end, be tried again, or go on.
    abortRollout: async () => ({ id: await insertStoppedRollout(service.app.engine.registry, '9999_example') }),
    retryRollout: async () => ({ id: await insertStoppedRollout(service.app.engine.registry, '9999_example') }),
    resumeRollout: async () => ({ id: await insertStoppedRollout(service.app.engine.registry, '9999_example') }),
    signOutEverywhere: async () => {
      tokens.user = (await signInAgain(service, operations)).accessToken;
      authorizedAs = '';
      return {};
    },
    purgeTenant: async () => {
      const id = created.get('/tenants') ?? '';
      await service.send('DELETE', `/tenants/${id}`, { token: tokens.operator });
      return { id };
    },
  };

  const refused: string[] = [];
  for (const operation of operations) {
    const { operationId, scope, path, example } = operation;
    const given = (await prepare[operationId]?.()) ?? {};
    const caller = scope === 'operator' ? 'operator' : 'user';
    if (scope !== 'public' && authorizedAs !== caller) {
      await sender.authorize(tokens[caller]);
      authorizedAs = caller;
    }
    await sender.prepare?.(operation);
    const collection = path.split('/{')[0] ?? '';
    const id = path.includes('{') ? (given.id ?? created.get(collection) ?? '') : undefined;
    const answer = await sender.send(operation, { ...given, ...(id !== undefined && { id }) });
    // A busy disk drops a database after the deadline of the request: then the answer promises the end, which must come.
    if (answer.text.includes('operation-unfinished')) await endOf(service, answer.text, tokens.operator);
    else if (answer.status < 200 || answer.status >= 300)
      refused.push(`${operationId}: ${answer.status} ${answer.text}`);
    if (example) expect([operationId, JSON.parse(answer.sent ?? '')]).toEqual([operationId, given.body ?? example]);
    if (answer.status === 201 && path === collection)
      created.set(collection, (JSON.parse(answer.text) as { id: string }).id);
    if (operationId === 'signInOperator') tokens.operator = (JSON.parse(answer.text) as SignedIn).accessToken;
    if (operationId === 'signIn') {
      const signedIn = JSON.parse(answer.text) as SignedIn;
      tokens.user = signedIn.accessToken;
      refreshToken = signedIn.refreshToken;
    }
  }
  expect(refused).toEqual([]);
}

/** Every operation of the document, in an order in which each finds what it needs. */
export async function operationsInOrder(service: TestService): Promise<Operation[]> {
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
export function groupOf({ operationId, scope }: Operation): 'first' | 'user' | 'operator' | 'last' {
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
async function otherSession(service: TestService, operations: readonly Operation[]): Promise<string> {
  const body = exampleOf(operations, 'signIn');
  const { accessToken: token } = (await service.send<SignedIn>('POST', '/auth/login', { body })).body;
  const { body: sessions } = await service.send<{ data: { id: string; current: boolean }[] }>('GET', '/auth/sessions', {
    token,
  });
  return sessions.data.find(({ current }) => current)?.id ?? '';
}

/** Signs in with the password that the example changed to. */
async function signInAgain(service: TestService, operations: readonly Operation[]): Promise<SignedIn> {
  const { newPassword: password } = exampleOf(operations, 'changePassword') as { newPassword: string };
  const body = { ...exampleOf(operations, 'signIn'), password };
  return (await service.send<SignedIn>('POST', '/auth/login', { body })).body;
}

/** Waits until the operation that an answer names is done. */
async function endOf(service: TestService, answer: string, token: string): Promise<void> {
  const { operationId } = JSON.parse(answer) as { operationId: string };
  const state = async (): Promise<unknown> =>
    (await service.send('GET', `/operations/${operationId}`, { token })).body['state'];
  await expect.poll(state, { timeout: 30_000 }).toBe('done');
}

// The run: makes requests from the service's own OpenAPI document, sends them one after the other, and checks every answer.
// Used by the test and by `npm run fuzz`.
import fc from 'fast-check';
import { createEnvelope } from '../../src/secrets/envelope.js';
import type { TestCluster } from '../support/cluster.js';
import { ADMIN, OPERATOR, startServiceIn, tokenSecretsOf, type TestService } from '../support/service.js';
import { createCheck, type Received } from './checks.js';
import { operationsOf, type OpenApiDocument, type Operation } from './document.js';
import { requestOf, type Draft } from './requests.js';
import { createWorld, secondPlace, type Sent } from './world.js';

export interface FuzzOptions {
  /** How many requests are made. */
  readonly requests: number;
  /** With the same seed the same requests come in the same order. */
  readonly seed: number;
  /** Called after each request. */
  readonly onProgress?: (done: number) => void;
}

export interface FuzzResult {
  readonly failure: FuzzFailure | undefined;
  readonly operations: readonly Operation[];
  /** How often each operation answered which status: `GET /products/ 200`. */
  readonly tally: ReadonlyMap<string, number>;
}

/** An answer that broke a promise, to the smallest request that was found to do so. */
export interface FuzzFailure {
  readonly problems: readonly string[];
  readonly operation: string;
  readonly actor: string;
  readonly sent: Sent;
  readonly answer: Received;
}

/** Ids of tokens and tenants stay valid for as long as the longest run. */
const FUZZ_ENV = { ACCESS_TOKEN_TTL: '86400' };

/** A service to be fuzzed, on a registry of its own. Close it. */
export async function startFuzzService(cluster: TestCluster): Promise<TestService> {
  return startServiceIn(cluster, { env: { ...FUZZ_ENV, CLUSTER_HOSTS: secondPlace(cluster).host } });
}

/** Makes requests until one breaks a promise, which is then made as small as it goes, or until there were enough. */
export async function fuzz(cluster: TestCluster, service: TestService, options: FuzzOptions): Promise<FuzzResult> {
  const document = (await service.app.inject('/docs/json')).json<OpenApiDocument>();
  const operations = operationsOf(document);
  const world = await createWorld(cluster, service);
  const check = createCheck(await secretsOf(cluster, service));
  const tally = new Map<string, number>();
  let failure: FuzzFailure | undefined;
  let done = 0;

  const holds = async (draft: Draft): Promise<boolean> => {
    const sent = world.resolve(draft);
    const answer = await send(service, sent);
    const problems = check(draft.operation, answer);
    if (problems.length > 0) {
      failure = { problems, operation: draft.operation.name, actor: draft.actor, sent, answer };
      return false;
    }
    if (!failure) {
      const key = `${draft.operation.name} ${answer.status}`;
      tally.set(key, (tally.get(key) ?? 0) + 1);
      options.onProgress?.((done += 1));
    }
    await world.learn(draft, sent, answer);
    return true;
  };
  const { failed, errorInstance } = await fc.check(fc.asyncProperty(requestOf(operations, world.hints), holds), {
    numRuns: options.requests,
    seed: options.seed,
  });
  // Not an answer that was wrong: the run itself is, and would otherwise look like one that ended early.
  if (failed && !failure) throw new Error('the run could not go on', { cause: errorInstance });
  return { failure, operations, tally };
}

async function send({ app }: TestService, { method, url, headers, body }: Sent): Promise<Received> {
  const answer = await app.inject({
    method: method as 'GET',
    url,
    headers,
    ...(body !== undefined && { payload: body }),
  });
  const text = answer.payload;
  return { status: answer.statusCode, headers: answer.headers, text, body: parsed(text) };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** Everything that no answer may hold: passwords of databases and of people, and the key of the tokens. */
async function secretsOf(cluster: TestCluster, { app, config }: TestService): Promise<string[]> {
  const envelope = createEnvelope(config.encryptionKeys);
  const rows = await app.engine.registry
    .selectFrom('tenants')
    .select(['id', 'db_host', 'db_port', 'db_user', 'db_password'])
    .execute();
  const passwords = rows.flatMap(({ id, db_host, db_port, db_user, db_password }) => [
    envelope.open(db_password, { id, host: db_host, port: db_port, user: db_user }),
    db_password,
  ]);
  const { provisioner, registryOwner, registryService, superuser } = cluster;
  const roles = [provisioner, registryOwner, registryService, superuser];
  const accounts = [...roles, ADMIN, OPERATOR].map(({ password }) => password);
  return [...passwords, ...accounts, ...Object.values(tokenSecretsOf(config))];
}

// The run: generates requests from the service's own OpenAPI document, sends them one after the other, and checks every answer.
// The test and `npm run fuzz` use it.
import fc from 'fast-check';
import { createEnvelope } from '../../src/secrets/envelope.js';
import { secondPlace, type TestCluster } from '../support/cluster.js';
import { ADMIN, OPERATOR, startServiceIn, tokenSecretsOf, type TestService } from '../support/service.js';
import { createCheck, type Received } from './checks.js';
import { operationsOf, type OpenApiDocument, type Operation } from './document.js';
import { requestOf, requestTo, type Draft } from './requests.js';
import { createWorld, type Sent } from './world.js';

export interface FuzzOptions {
  /** The number of requests. */
  readonly requests: number;
  /** The same seed generates the same requests in the same order. */
  readonly seed: number;
  /** How many further requests at most are for the operations that had no success yet, or no refusal; 0 if absent. */
  readonly further?: number;
  /** Called after each request. */
  readonly onProgress?: (done: number) => void;
}

export interface FuzzResult {
  readonly failure: FuzzFailure | undefined;
  readonly operations: readonly Operation[];
  /** How often each operation answered with each status, such as `GET /products/ 200`. */
  readonly tally: ReadonlyMap<string, number>;
}

/** An answer that broke a promise, with the smallest request that was found to cause it. */
export interface FuzzFailure {
  readonly problems: readonly string[];
  readonly operation: string;
  readonly actor: string;
  readonly sent: Sent;
  readonly answer: Received;
}

/** Tokens and tenants must stay valid during the longest run. */
const FUZZ_ENV = { ACCESS_TOKEN_TTL: '86400' };

/** A service to be fuzzed, on its own registry. Close it. */
export async function startFuzzService(cluster: TestCluster): Promise<TestService> {
  return startServiceIn(cluster, { env: { ...FUZZ_ENV, CLUSTER_HOSTS: secondPlace(cluster).host } });
}

/** Sends requests until one breaks a promise, and then looks for the smallest such request; or until the number is reached. */
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
  const run = async (drafts: fc.Arbitrary<Draft>, requests: number): Promise<void> => {
    const { failed, errorInstance } = await fc.check(fc.asyncProperty(drafts, holds), {
      numRuns: requests,
      seed: options.seed,
    });
    // The error is not a wrong answer but one of the run itself, which would otherwise look like an early end.
    if (failed && !failure) throw new Error('the run could not go on', { cause: errorInstance });
  };
  await run(requestOf(operations, world.hints), options.requests);
  const untried = untriedOf(operations, tally);
  const { further = 0 } = options;
  if (!failure && untried.length > 0 && further > 0) await run(requestTo(untried, world.hints), further);
  return { failure, operations, tally };
}

/** The operations that had no success, or no refusal. */
export function untriedOf(operations: readonly Operation[], tally: FuzzResult['tally']): Operation[] {
  const had = (name: string, wanted: (status: number) => boolean): boolean =>
    [...tally.keys()].some((key) => key.startsWith(`${name} `) && wanted(Number(key.slice(-3))));
  return operations.filter(({ name }) => !had(name, (status) => status < 300) || !had(name, (status) => status >= 400));
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

/** Everything that no answer may contain: passwords of databases and of users, and the key of the tokens. */
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

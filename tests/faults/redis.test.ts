// Redis at fault: killed, frozen, slow, emptied, full, out of reach, answers lost. No call waits longer than its deadline, and no
// command is sent twice.
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { openSharedStore, script, SharedStoreError, type OpenedStore } from '../../src/replicas/shared-store.js';
import { parseRedisUrl } from '../../src/replicas/redis-settings.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';

const TIMEOUT = 250;
const SOON = { timeout: 30_000, interval: 10 };
const COUNT = script("return redis.call('INCR', KEYS[1])");
const INSTALLATION = randomUUID();

interface Change {
  readonly available: boolean;
  readonly reason: string | undefined;
}

describe.skipIf(noRedis !== undefined)(`a Redis store${redisNote}`, () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis();
  });
  afterAll(() => server.close());
  beforeEach(async () => {
    await server.command('FLUSHALL');
  });

  /** A store on the server, or on a proxy before it; it closes at the end of the test. */
  function open(
    at: { host: string; port: number; password?: string } = server,
    installation: () => Promise<string> = async () => INSTALLATION,
  ): { store: OpenedStore; changes: Change[] } {
    const url = `redis://:${at.password ?? server.password}@${at.host}:${at.port}`;
    const settings = parseRedisUrl(url, { timeout: TIMEOUT, production: true }, []);
    if (!settings) throw new Error(`${url} is not usable`);
    const changes: Change[] = [];
    const store = openSharedStore(settings, {
      installation,
      onChange: (available, reason) => void changes.push({ available, reason }),
    });
    onTestFinished(() => store.close());
    return { store, changes };
  }
  async function opened(at?: { host: string; port: number }): Promise<{ store: OpenedStore; changes: Change[] }> {
    const result = open(at);
    await expect.poll(() => result.store.available, SOON).toBe(true);
    return result;
  }
  async function proxied(): Promise<{ proxy: Proxy; store: OpenedStore; changes: Change[] }> {
    const proxy = await startProxy(server);
    onTestFinished(() => proxy.close());
    return { proxy, ...(await opened(proxy)) };
  }
  const failureOf = async (work: Promise<unknown>): Promise<SharedStoreError> => {
    const error = await work.catch((thrown: unknown) => thrown);
    if (!(error instanceof SharedStoreError)) throw new Error(`not refused: ${String(error)}`);
    return error;
  };
  const counted = (): Promise<unknown> => server.command('GET', `tenantry:${INSTALLATION}:n`);
  /** Whether the work ended without any wait: before the next turn of the timers. */
  const atOnce = async (work: Promise<unknown>): Promise<boolean> => {
    const first = await Promise.race([
      work.then(
        () => true,
        () => true,
      ),
      new Promise((resolve) => setImmediate(resolve, false)),
    ]);
    return first === true;
  };

  it('does not wait while Redis is down, and is used when Redis comes up', async () => {
    const late = await startRedis();
    onTestFinished(() => late.close());
    await late.kill();
    const { store, changes } = open(late);
    await store.settled;
    expect(store.state).toMatchObject({ available: false, reason: 'it refused the connection' });
    const work = store.run(COUNT, ['n']);
    expect(await atOnce(work)).toBe(true);
    expect(await failureOf(work)).toMatchObject({ mayHaveActed: false });
    await late.start();
    await expect.poll(() => store.available, SOON).toBe(true);
    expect(await store.run(COUNT, ['n'])).toBe(1);
    expect(changes.map(({ available }) => available)).toEqual([false, true]);
  });

  it('ends its pending commands when Redis is killed, and is used again when Redis is back', async () => {
    const own = await startRedis();
    onTestFinished(() => own.close());
    const { store } = await opened(own);
    await own.freeze();
    const work = failureOf(store.run(COUNT, ['n']));
    await own.kill();
    expect(await work).toMatchObject({ mayHaveActed: true });
    await expect.poll(() => store.available, SOON).toBe(false);
    await own.start();
    await expect.poll(() => store.available, SOON).toBe(true);
    // Redis lost its scripts: they are sent again by their text.
    expect(await store.run(COUNT, ['n'])).toBe(1);
  });

  it('waits for one deadline while Redis is frozen: later commands fail at once, and are not sent', async () => {
    const { store, changes } = await opened();
    expect(await store.run(COUNT, ['n'])).toBe(1);
    await server.freeze();
    onTestFinished(() => server.thaw());
    const first = store.run(COUNT, ['n']);
    const failure = await failureOf(first);
    expect(failure.message).toBe(`Redis cannot be used: it did not answer within ${TIMEOUT} ms`);
    expect(failure.mayHaveActed).toBe(true);
    for (let turn = 0; turn < 5; turn += 1) {
      const later = store.run(COUNT, ['n']);
      expect(await atOnce(later)).toBe(true);
      expect(await failureOf(later)).toMatchObject({ mayHaveActed: false });
    }
    await server.thaw();
    await expect.poll(() => store.available, SOON).toBe(true);
    // The command that was sent; the others never were.
    expect(await counted()).toBe('2');
    expect(changes.map(({ available }) => available)).toEqual([true, false, true]);
  });

  it('makes a new connection if Redis is frozen for long', async () => {
    const { proxy, store } = await proxied();
    proxy.mode = 'hang';
    expect(await failureOf(store.run(COUNT, ['n']))).toMatchObject({ mayHaveActed: true });
    await expect.poll(() => proxy.accepted, SOON).toBeGreaterThan(1);
    proxy.mode = 'pass';
    await expect.poll(() => store.available, SOON).toBe(true);
  });

  it('is unavailable if an answer takes longer than the deadline, and is used again when Redis is fast', async () => {
    const { proxy, store } = await proxied();
    proxy.delay = 2 * TIMEOUT;
    expect((await failureOf(store.run(COUNT, ['n']))).message).toContain(`within ${TIMEOUT} ms`);
    expect(store.available).toBe(false);
    proxy.delay = 0;
    await expect.poll(() => store.available, SOON).toBe(true);
  });

  it('does not blame Redis for a pause of this process: an answer that arrived meanwhile counts', async () => {
    const { store, changes } = await opened();
    await store.run(COUNT, ['n']);
    const work = store.run(COUNT, ['n']);
    const until = performance.now() + 3 * TIMEOUT;
    while (performance.now() < until);
    expect(await work).toBe(2);
    expect(changes).toHaveLength(1);
  });

  it('has at most 10,000 commands without an answer, and refuses more at once', async () => {
    const { store } = await opened();
    await server.freeze();
    onTestFinished(() => server.thaw());
    const sent = Array.from({ length: 10_000 }, () => failureOf(store.send('GET', ['k'])));
    const more = store.send('GET', ['k']);
    expect(await failureOf(more)).toMatchObject({
      reason: 'too many commands wait for an answer',
      mayHaveActed: false,
    });
    for (const { mayHaveActed } of await Promise.all(sent)) expect(mayHaveActed).toBe(true);
  });

  it('does not send a command again if its answer was lost', async () => {
    const { proxy, store } = await proxied();
    expect(await store.run(COUNT, ['n'])).toBe(1);
    proxy.mode = 'swallow';
    const lost = failureOf(store.run(COUNT, ['n']));
    await expect.poll(counted, SOON).toBe('2');
    proxy.cut();
    proxy.mode = 'pass';
    expect(await lost).toMatchObject({ mayHaveActed: true });
    await expect.poll(() => store.available, SOON).toBe(true);
    expect(await store.run(COUNT, ['n'])).toBe(3);
  });

  it('does not send commands again if many had no answer', async () => {
    const { proxy, store } = await proxied();
    proxy.mode = 'swallow';
    const lost = Array.from({ length: 50 }, () => failureOf(store.run(COUNT, ['n'])));
    await expect.poll(counted, SOON).toBe('50');
    proxy.cut();
    proxy.mode = 'pass';
    for (const { mayHaveActed } of await Promise.all(lost)) expect(mayHaveActed).toBe(true);
    await expect.poll(() => store.available, SOON).toBe(true);
    expect(await counted()).toBe('50');
  });

  it('works on after Redis lost its keys and scripts', async () => {
    const { store } = await opened();
    await store.run(COUNT, ['n']);
    await server.command('FLUSHALL');
    await server.command('SCRIPT', 'FLUSH');
    expect(await store.run(COUNT, ['n'])).toBe(1);
    expect(store.available).toBe(true);
  });

  it('is unavailable until a full Redis has room, and nothing is evicted meanwhile', async () => {
    const { store, changes } = await opened();
    await store.send('SET', ['kept'], ['x']);
    await server.command('CONFIG', 'SET', 'maxmemory', '1');
    onTestFinished(async () => {
      await server.command('CONFIG', 'SET', 'maxmemory', '0');
    });
    await failureOf(store.run(COUNT, ['n']));
    expect(store.state).toMatchObject({ available: false, reason: 'it is full (maxmemory)' });
    await expect.poll(() => store.state.since, SOON).toBeGreaterThan(1_000);
    // Reported once, however many probes there were.
    expect(changes.map(({ available }) => available)).toEqual([true, false]);
    await server.command('CONFIG', 'SET', 'maxmemory', '0');
    await expect.poll(() => store.available, SOON).toBe(true);
    expect(await store.send('GET', ['kept'])).toBe('x');
  });

  it('leaves a server that a failover made a replica, and reconnects until a server takes writes', async () => {
    const { proxy, store } = await proxied();
    await server.command('REPLICAOF', '127.0.0.1', '1');
    onTestFinished(async () => {
      await server.command('REPLICAOF', 'NO', 'ONE');
    });
    const connections = proxy.accepted;
    await failureOf(store.run(COUNT, ['n']));
    expect(store.state.reason).toBe('it is a replica, which takes no writes');
    await expect.poll(() => proxy.accepted, SOON).toBeGreaterThan(connections);
    await server.command('REPLICAOF', 'NO', 'ONE');
    await expect.poll(() => store.available, SOON).toBe(true);
  });

  it('answers a wrong command with an error, and stays available', async () => {
    const { store } = await opened();
    await store.send('SET', ['text'], ['x']);
    const failure = await failureOf(store.run(COUNT, ['text']));
    expect(failure).toMatchObject({
      message: 'Redis cannot be used: it answered with an error (ERR)',
      mayHaveActed: true,
    });
    expect(store.available).toBe(true);
  });

  it('shows no password and no value in an error', async () => {
    const { store } = open({ ...server, password: 'wrong-password-canary' });
    await store.settled;
    const { store: other } = await opened();
    await other.send('SET', ['text'], ['x']);
    const errors = [await failureOf(store.send('GET', ['k'])), await failureOf(other.run(COUNT, ['text'], ['canary']))];
    for (const { reason, message, stack } of errors)
      expect(`${reason} ${message} ${stack ?? ''}`).not.toContain('canary');
  });

  it('waits until the registry knows the installation, and asks repeatedly', async () => {
    let answers = false;
    const { store } = open(server, async () => {
      if (!answers) throw new Error('the registry is away');
      return INSTALLATION;
    });
    await store.settled;
    expect(store.state.reason).toBe('the registry does not say which installation this is');
    answers = true;
    await expect.poll(() => store.available, SOON).toBe(true);
    expect(await store.run(COUNT, ['n'])).toBe(1);
  });

  it.each([
    ['is there', async () => opened()],
    [
      'is frozen, with a command on its way',
      async () => {
        const result = await opened();
        await server.freeze();
        onTestFinished(() => server.thaw());
        return result;
      },
    ],
    ['is down', async () => open({ host: '127.0.0.1', port: 1 })],
  ])('closes at once while Redis %s, and ends its pending commands', async (_, prepare) => {
    const { store, changes } = await prepare();
    const pending = failureOf(
      store.run(COUNT, ['n']).then(() => Promise.reject(new SharedStoreError('answered', true))),
    );
    const before = changes.length;
    expect(await atOnce(store.close())).toBe(true);
    await pending;
    await store.close();
    expect(store.available).toBe(false);
    expect(changes).toHaveLength(before);
    expect(await failureOf(store.run(COUNT, ['n']))).toMatchObject({ mayHaveActed: false });
  });
});

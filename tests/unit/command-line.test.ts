// src/lib/command-line.ts: how every command treats `--help`, flags and mistakes.
import { describe, expect, it } from 'vitest';
import {
  defineCommand,
  describeError,
  readCommandLine,
  runCommand,
  someOf,
  text,
  toggle,
  UsageError,
  variables,
  wholeNumber,
  type Command,
} from '../../src/lib/command-line.js';

const paint = defineCommand({
  start: 'npm run paint --',
  about: '\nPaints a fence.\n',
  flags: {
    coats: wholeNumber({ what: 'how often each board is painted', min: 1, max: 9, default: 2, example: 3 }),
    width: wholeNumber({ what: 'of the brush', min: 0, max: 100, placeholder: 'MM' }),
    colour: text({ what: 'of the paint', placeholder: 'NAME', default: 'white' }),
    sides: someOf(
      { front: 'the street sees it', back: 'the garden sees it' },
      { what: 'any of', placeholder: 'SIDES' },
    ),
    env: variables({ what: 'a variable for the painter', example: 'MOOD=good' }),
    'no-primer': toggle({ what: 'leaves the primer out' }),
  },
  operands: {
    name: 'FENCE',
    what: 'what is painted',
    min: 1,
    max: 2,
    oneOf: ['north', 'south', '-'],
    example: 'north',
  },
  notes: 'Let it dry.',
  exits: { 0: 'painted', 3: 'out of paint' },
  failed: 3,
});

const sweep = defineCommand({ start: 'npm run sweep --', about: 'Sweeps.', flags: {}, exits: { 0: 'swept' } });

const read = (...args: string[]) => readCommandLine(paint, args);

/** The output of a run, and its end. */
async function running(
  args: readonly string[],
  run: () => Promise<number> | number = () => 0,
  command: Command<typeof paint.flags> = paint,
): Promise<{ out: string; problem: string; code: number | undefined }> {
  const seen = { out: '', problem: '', code: undefined as number | undefined };
  await runCommand(command, run, {
    args,
    out: (shown) => (seen.out += shown),
    problem: (shown) => (seen.problem += shown),
    end: (code) => (seen.code = code),
  });
  return seen;
}

describe('a command line', () => {
  it('gives absent flags their defaults, or undefined without a default', () => {
    expect(read('north')).toEqual({
      flags: { coats: 2, width: undefined, colour: 'white', sides: ['front', 'back'], env: {}, 'no-primer': false },
      operands: ['north'],
    });
  });

  it('accepts each kind of flag, before and after the arguments, with and without =', () => {
    const args = '--coats 9 north --width=0 --colour dark=red --sides back,front --env A=1 --env B=x=y --no-primer';
    expect(read(...args.split(' '))).toEqual({
      flags: {
        coats: 9,
        width: 0,
        colour: 'dark=red',
        sides: ['back', 'front'],
        env: { A: '1', B: 'x=y' },
        'no-primer': true,
      },
      operands: ['north'],
    });
  });

  it('uses the last value of a repeated flag, and takes everything after -- as arguments', () => {
    expect(read('--coats', '1', '--coats', '4', '--', '-')).toMatchObject({ flags: { coats: 4 }, operands: ['-'] });
    expect(() => read('--', '--coats')).toThrow('FENCE must be one of north, south, -, not "--coats"');
  });

  it.each([
    ['--fence', ['--fence'], 'there is no flag "--fence"'],
    ['an unknown flag, without its value', ['--fence=secret'], 'there is no flag "--fence"'],
    ['a property of every object', ['--constructor'], 'there is no flag "--constructor"'],
    ['a short flag', ['-c', '3'], 'there is no flag "-c"'],
    ['the positive of a flag', ['--primer'], 'there is no flag "--primer"'],
    ['no value', ['north', '--coats'], '--coats needs a value'],
    ['an empty text', ['--colour=', 'north'], '--colour needs a value'],
    ['a flag for a value', ['--coats', '--no-primer'], '--coats needs a value'],
    ['a value for none', ['--no-primer=yes'], '--no-primer takes no value'],
    ['too small a number', ['--coats', '0', 'north'], '--coats must be a whole number from 1 to 9, not "0"'],
    ['too large a number', ['--coats', '10', 'north'], '--coats must be a whole number from 1 to 9, not "10"'],
    ['no digits', ['--coats', '1e0', 'north'], '--coats must be a whole number from 1 to 9, not "1e0"'],
    ['a negative number', ['--width=-1', 'north'], '--width must be a whole number from 0 to 100, not "-1"'],
    ['a line break', ['--coats', '1\n2', 'north'], '--coats must be a whole number from 1 to 9, not "1\\n2"'],
    ['unknown choices', ['--sides', 'top,back', 'north'], '--sides has no "top"; there are front, back'],
    ['no choice', ['--sides=', 'north'], '--sides has no ""; there are front, back'],
    ['a variable, without its value', ['--env', 'a=secret', 'north'], '--env must be NAME=VALUE, such as MOOD=good'],
    ['no argument', [], 'FENCE is missing'],
    ['too many arguments', ['north', 'south', 'north'], 'the argument "north" is one too many'],
    ['an unknown argument', ['west'], 'FENCE must be one of north, south, -, not "west"'],
  ])('names the mistake: %s', (_, args, message) => {
    const reading = (): unknown => read(...args);
    expect(reading).toThrow(UsageError);
    expect(reading).toThrow(new UsageError(message));
  });

  it('accepts no arguments if the command takes none', () => {
    expect(() => readCommandLine(sweep, ['now'])).toThrow('the argument "now" is one too many');
    expect(readCommandLine(sweep, [])).toEqual({ flags: {}, operands: [] });
  });

  it('is passed to another program unchanged, except --help', () => {
    const passes = defineCommand({ ...sweep, passesTo: 'vacuum' });
    expect(readCommandLine(passes, ['-x', '--deep=2', 'a'])).toEqual({ flags: {}, operands: ['-x', '--deep=2', 'a'] });
    expect(readCommandLine(passes, ['--deep', '--help'])).toBe('help');
  });
});

describe('the help', () => {
  it('shows usage, arguments, flags with bounds and defaults, an example and the exit codes, and ends with 0', async () => {
    const { out, problem, code } = await running(['--help']);
    expect({ problem, code }).toEqual({ problem: '', code: 0 });
    expect(out).toBe(`Usage: npm run paint -- [flags] FENCE …

Paints a fence.

  FENCE             what is painted
  --coats N         how often each board is painted (1 to 9; default 2)
  --width MM        of the brush (0 to 100)
  --colour NAME     of the paint (default white)
  --sides SIDES     any of (default: all)
                      front  the street sees it
                      back   the garden sees it
  --env NAME=VALUE  a variable for the painter (can be repeated)
  --no-primer       leaves the primer out
  --help            this text

Example: npm run paint -- --coats 3 --env MOOD=good north
Let it dry.
Exit code: 0 painted, 2 the command line is wrong, 3 out of paint.
`);
  });

  it.each([[['-h']], [['--fence', '--help']], [['--coats', 'x', '-h']], [['north', 'south', 'west', '--help']]])(
    'is shown whatever else the line contains: %j',
    async (args) => {
      const { out, code } = await running(args, () => {
        throw new Error('it ran');
      });
      expect(out).toContain('Usage: npm run paint --');
      expect(code).toBe(0);
    },
  );

  it('omits the -- of npm if the command takes nothing after it', async () => {
    const { out } = await running(['--help'], undefined, { ...paint, flags: {} as typeof paint.flags });
    expect(out).toContain('Usage: npm run paint -- FENCE …\n');
    let shown = '';
    const terminal = { args: ['--help'], out: (help: string) => (shown = help), problem: () => undefined };
    await runCommand(sweep, () => 0, { ...terminal, end: () => undefined });
    expect(shown.split('\n')[0]).toBe('Usage: npm run sweep');
  });

  it('breaks long lines between words, and indents them equally', async () => {
    const what = 'word '.repeat(60).trim();
    const flags = {
      ...paint.flags,
      coats: wholeNumber({ what, min: 1, max: 9, default: 1 }),
      sides: someOf({ front: what, back: '' }, { what: 'any of', placeholder: 'SIDES' }),
    };
    const { out } = await running(['--help'], undefined, { ...paint, flags });
    expect(Math.max(...out.split('\n').map((line) => line.length))).toBeLessThanOrEqual(120);
    expect(out).toMatch(/ {2}--coats N {9}word .*\n {20}word /);
    expect(out).toMatch(/\n {22}front {2}word .*\n {29}word /);
  });

  it('has an example that the command accepts: a wrong example is an error in the code', () => {
    const coats = wholeNumber({ what: 'how often', min: 1, max: 9, example: 10 });
    expect(() => defineCommand({ ...sweep, flags: { coats } })).toThrow(TypeError);
  });
});

describe('a run', () => {
  it('ends with the exit code of its function', async () => {
    expect(await running(['north'], async () => 7)).toEqual({ out: '', problem: '', code: 7 });
  });

  it('does not start on a wrong command line: one line names the mistake and the help, and the code is 2', async () => {
    let ran = false;
    const ending = await running(['--fence'], () => {
      ran = true;
      return 0;
    });
    expect(ending).toEqual({
      out: '',
      problem: 'there is no flag "--fence". Help: npm run paint -- --help\n',
      code: 2,
    });
    expect(ran).toBe(false);
  });

  it('can refuse the command line itself', async () => {
    const { problem, code } = await running(['north'], async () => {
      throw new UsageError('that fence is painted');
    });
    expect(problem).toBe('that fence is painted. Help: npm run paint -- --help\n');
    expect(code).toBe(2);
  });

  it('that fails prints the stack with its causes, and ends with the code of a failure', async () => {
    const failure = new Error('no paint', { cause: new Error('the shop is shut') });
    const fail = (): never => {
      throw failure;
    };
    const { problem, code } = await running(['north'], fail);
    expect(problem).toBe(`${describeError(failure)}\n`);
    expect(problem).toMatch(/^Error: no paint\n +at .*\ncaused by Error: the shop is shut\n +at /s);
    expect(code).toBe(3);
    expect((await running(['north'], fail, { ...paint, failed: 1 })).code).toBe(1);
  });
});

// The command line of `tenantry`: its groups and commands, their help, and what a wrong command line gets.
import { Command, CommanderError, Option, type OutputConfiguration } from 'commander';
import { packageVersion } from '../lib/package-version.js';
import { clusterCommands } from './clusters/cluster-commands.js';
import { doctor } from './doctor/doctor-command.js';
import { each as eachTenant } from './each/each-command.js';
import { keyCommands } from './keys/key-commands.js';
import { operationCommands } from './operations/operation-commands.js';
import { operatorCommands } from './operators/operator-commands.js';
import { migrate } from './processes/run-migrate.js';
import { pools } from './processes/pools-command.js';
import { serve } from './processes/serve.js';
import { rolloutCommands } from './rollouts/rollout-commands.js';
import { tenantCommands } from './tenants/tenant-commands.js';
import type { CommandGroup, EngineCommand, Operand, ProcessCommand } from './terminal/cli-command.js';
import { EXIT, exitMeanings } from './terminal/exit-codes.js';

export const groups: readonly CommandGroup[] = [
  tenantCommands,
  clusterCommands,
  operationCommands,
  rolloutCommands,
  operatorCommands,
  keyCommands,
];
export const processes: readonly ProcessCommand[] = [serve, migrate];
export const alone: readonly EngineCommand<never>[] = [pools, eachTenant, doctor];

const NAME = 'tenantry';

/** Reads the arguments and runs the command. @returns the exit code; undefined if the command sets it itself */
export async function runTenantry(args: readonly string[]): Promise<number | undefined> {
  let exit: number | undefined;
  const program = tenantryProgram((code) => (exit = code));
  try {
    await program.parseAsync([...args], { from: 'user' });
    return exit;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return ['commander.helpDisplayed', 'commander.version'].includes(error.code) ? EXIT.done : EXIT.usage;
  }
}

/** @param onEnd receives the exit code of a command on the engine */
export function tenantryProgram(onEnd: (exit: number) => void = () => undefined): Command {
  const program = new Command(NAME)
    .description(
      'Operates Tenantry from the command line. Reads the same environment as the service, and works while it runs or is stopped.',
    )
    .version(packageVersion(), '--version', 'the version of this build')
    .helpOption('--help', 'this text')
    .helpCommand(false)
    .exitOverride()
    .configureOutput(output)
    .addHelpText('after', `\nExample: ${NAME} tenants list --status suspended\n\n${EXITS}`);
  for (const each of processes) addProcess(program, each);
  for (const { name, about, commands } of groups) {
    const group = program.command(name).description(about).helpCommand(false);
    const [first] = commands;
    if (first) group.addHelpText('after', `\nExample: ${exampleOf([NAME, name], first)}`);
    for (const command of commands) addCommand(group, [NAME, name], command, onEnd);
  }
  for (const command of alone) addCommand(program, [NAME], command, onEnd);
  return program;
}

const EXITS = `Exit code:${Object.entries(exitMeanings)
  .map(([code, meaning]) => `\n  ${code.padEnd(5)}${meaning}`)
  .join('')}`;

export function exampleOf(path: readonly string[], { name, example }: Pick<EngineCommand, 'name' | 'example'>): string {
  return [...path, name, example].filter((part) => part !== '').join(' ');
}

function addCommand(
  parent: Command,
  path: readonly string[],
  command: EngineCommand<never>,
  onEnd: (exit: number) => void,
): void {
  const { name, about, operands = [], options = [], kind, notes } = command;
  const added = parent.command(name).description(about);
  for (const each of operands) added.argument(bracketed(each), each.what);
  for (const option of options) added.addOption(option);
  if (kind !== 'reads')
    added.addOption(new Option('--as <email>', 'the operator who acts (default: TENANTRY_OPERATOR, or the only one)'));
  if (kind === 'asks') added.addOption(new Option('--yes', 'do it without a question'));
  added.addOption(new Option('--json', 'write JSON instead of text'));
  const whole = [...path, name].join(' ');
  added
    .showHelpAfterError(`Help: ${whole} --help`)
    .addHelpText(
      'after',
      `\nExample: ${exampleOf(path, command)}\n\n${notes === undefined ? '' : `${notes}\n\n`}${EXITS}`,
    )
    .action(async () => {
      const { runEngineCommand } = await import('./terminal/run-command.js');
      onEnd(await runEngineCommand(command, whole, added.args, added.opts()));
    });
}

function addProcess(program: Command, command: ProcessCommand): void {
  const { name, about, example, notes } = command;
  const added = program
    .command(name)
    .description(about)
    .argument('[arguments...]', 'passed on')
    .allowUnknownOption()
    .addHelpText(
      'after',
      `\nExample: ${[NAME, name, example].join(' ').trim()}${notes === undefined ? '' : `\n\n${notes}`}`,
    )
    .action(() => command.start(added.args));
}

function bracketed({ name, optional = false }: Operand): string {
  return optional ? `[${name}]` : `<${name}>`;
}

const output: OutputConfiguration = {
  outputError(text, write) {
    write(`${withoutValue(text.replace(/^error: /, '').trim())}.\n`.replace(/([.?)])\.\n$/, '$1\n'));
  },
};

/** What follows the "=" of an option that is not known may be a secret. */
function withoutValue(text: string): string {
  return text.replace(/(unknown option '--?[\w-]+)=[^]*'/, "$1'");
}

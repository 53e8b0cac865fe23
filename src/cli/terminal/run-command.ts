// Runs one command on an engine, and shows how it failed. It is imported when a command runs, because it loads the service.
import { processEnvironment } from '../../config/index.js';
import { endOnSignals } from '../interruption.js';
import { originAtCommandLine } from './acting-operator.js';
import type { EngineCommand } from './cli-command.js';
import { EXIT, type ExitCode } from './exit-codes.js';
import { failureOf, type Failure } from './failures.js';
import { withEngine } from './opened-engine.js';
import { outputOf } from './output.js';
import { demandYes } from './question.js';
import { visible } from './shown-text.js';

/** The options of every command. */
interface CommonOptions {
  readonly json?: boolean;
  readonly as?: string;
  readonly yes?: boolean;
}

/**
 * @param definition its file in src/cli
 * @param command its path, such as `tenantry tenants suspend`
 * @returns the exit code
 */
export async function runEngineCommand(
  definition: EngineCommand,
  command: string,
  operands: readonly string[],
  options: CommonOptions,
): Promise<ExitCode> {
  endOnSignals();
  const { inputNames = {} } = definition;
  const environment = processEnvironment();
  const { json = false, as = environment['TENANTRY_OPERATOR'], yes = false } = options;
  const out = outputOf(json);
  const engineIs = { opened: false };
  try {
    const answered = await definition.answer?.(options, out);
    if (answered !== undefined) return answered;
    const code = await withEngine(environment, (engine, settings) => {
      engineIs.opened = true;
      return definition.run({
        engine,
        settings,
        environment,
        operands,
        options,
        out,
        origin: (first) =>
          originAtCommandLine(engine.registry, {
            email: as === '' ? undefined : as,
            command,
            ...(first !== undefined && { first }),
          }),
        ask: (question) => demandYes(question, yes),
      });
    });
    return code ?? EXIT.done;
  } catch (error) {
    const shown = engineIs.opened ? undefined : await definition.unopened?.(error, out);
    if (shown !== undefined) return shown;
    const failure = failureOf(error, (path) => nameOf(path, inputNames));
    process.stderr.write(json ? `${JSON.stringify({ error: documentOf(failure) })}\n` : textOf(failure));
    return failure.exit;
  }
}

/** `/admin/firstName` is `--admin-first-name` at the command line, unless the command says otherwise. */
function nameOf(path: string, names: Readonly<Record<string, string>>): string {
  const own = names[path];
  if (own !== undefined) return own;
  const [parent] = Object.keys(names).filter((each) => each.endsWith('/') && path.startsWith(each));
  if (parent !== undefined) return `${names[parent] ?? ''} ${path.slice(parent.length)}`;
  const words = path.split('/').filter((part) => part !== '');
  return `--${words.join('-').replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

function documentOf({ exit, code, message, issues, operationId }: Failure): object {
  return {
    exitCode: exit,
    code,
    message,
    ...(issues.length > 0 && { errors: issues }),
    ...(operationId !== undefined && { operationId }),
  };
}

function textOf({ message, issues, operationId }: Failure): string {
  const shows = operationId === undefined ? undefined : `tenantry operations show ${operationId}`;
  const lines = [
    ...message.split('\n'),
    ...issues.map((issue) => `  ${issue}`),
    ...(shows === undefined || message.includes(shows) ? [] : [`  ${shows} shows how far it is`]),
  ];
  return `${lines.map(visible).join('\n')}\n`;
}

// `tenantry each`: one statement for all tenants or some of them.
import { Option } from 'commander';
import type { TenantStatus } from '../../../db/registry/registry-schema.js';
import type { EngineCommand, Given } from '../terminal/cli-command.js';
import { timeUpTo, wholeFrom, wordList } from '../terminal/common-options.js';
import { CommandError, EXIT } from '../terminal/exit-codes.js';
import type { EachOptions } from './each-options.js';

/** Statuses of tenants that have a database. */
const STATUSES: readonly TenantStatus[] = ['active', 'suspended', 'deleted'];

/** ms. */
const LONGEST = 10 * 60_000;

export const each: EngineCommand<EachOptions> = {
  name: 'each',
  about: "Runs one SQL statement in every active tenant's database, or in those of some tenants.",
  operands: [
    { name: 'statement', what: 'the SQL; without it and --file it is read from standard input', optional: true },
  ],
  options: [
    new Option('--tenants <list>', 'only these tenants: slugs or ids, with commas').argParser(wordList()),
    new Option('--status <list>', 'only tenants in these statuses: active, suspended, deleted')
      .argParser(wordList(STATUSES))
      .default(['active'], 'active'),
    new Option('--cluster <cluster>', 'only tenants of this cluster: its name or id'),
    new Option('--at-once <n>', 'most statements at once on one cluster (default: a half of its reserve)').argParser(
      wholeFrom(1, 1_000),
    ),
    new Option('--limit-rows <n>', 'rows of one tenant at most').argParser(wholeFrom(1, 100_000)).default(1_000),
    new Option('--timeout <time>', 'longest run in one database').argParser(timeUpTo(LONGEST)).default(15_000, '15s'),
    new Option('--write', 'the statement may change rows: a dry run first, then a question'),
    new Option('--file <file>', 'read the statement from this file'),
    new Option('--output <file>', 'write the lines to this new file; --write needs it'),
    new Option('--resume <file>', 'continue the run of this file: what is done is not done again').conflicts('output'),
  ],
  example: '-- "select count(*) from products"',
  notes: `Without --write the statement is one SELECT, VALUES, TABLE or WITH. It runs in a read-only transaction, as a role that
has SELECT only and exists only during the run. Hashes of passwords, sessions and stored answers are not shown.
With --write it is also INSERT, UPDATE, DELETE or MERGE, in one transaction for each tenant.
Standard output has a line of JSON for each tenant, in the order of completion; a terminal or --output gets a table.`,
  kind: 'asks',
  async run(given) {
    const { runEach } = await import('./run-each.js');
    return runEach(given, await statementOf(given));
  },
};

async function statementOf({ operands: [operand], options: { file } }: Given<EachOptions>): Promise<string> {
  if (operand !== undefined && file !== undefined)
    throw new CommandError(EXIT.usage, 'Give the statement once: as an argument, or by --file.');
  if (operand !== undefined) return operand;
  const { decodedText } = await import('./statement-text.js');
  return decodedText(file);
}

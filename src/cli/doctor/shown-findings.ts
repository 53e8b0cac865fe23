// What `tenantry doctor` writes: findings, repairs, the summary, and the list of codes.
import { doctorCodes, UNCHECKED } from '../../doctor/doctor-codes.js';
import type { Diagnosis, DoctorWish } from '../../doctor/examination.js';
import type { Finding } from '../../doctor/findings.js';
import { EXIT, type ExitCode } from '../terminal/exit-codes.js';
import type { Output } from '../terminal/output.js';
import { visible } from '../terminal/shown-text.js';
import { tableOf } from '../terminal/table.js';

/**
 * Writes what is found, and the summary.
 *
 * @param only the codes that were asked for, if not all were
 * @returns the exit code that says the same
 */
export function showDiagnosis(
  out: Output,
  { findings, tenants, servers }: Diagnosis,
  { only }: Pick<DoctorWish, 'only'> = {},
): ExitCode {
  const errors = findings.filter(({ severity }) => severity === 'error').length;
  const unchecked = findings.filter(({ code }) => UNCHECKED.includes(code)).length;
  const repairable = findings.filter(({ repair }) => repair).length;
  const exitCode = unchecked > 0 ? EXIT.incomplete : errors > 0 ? EXIT.failed : EXIT.done;
  const warnings = findings.length - errors;
  const summary = { errors, warnings, repairable, unchecked, tenants, servers, exitCode };
  if (out.json) {
    for (const each of findings) out.line({ type: 'finding', ...documentOf(each) });
    out.line({ type: 'summary', ...summary });
    return exitCode;
  }
  const where = `${count(tenants, 'tenant')} on ${count(servers, 'server')}`;
  const found =
    findings.length === 0
      ? only
        ? `Nothing of these codes is found: ${where}.`
        : `Nothing is wrong with ${where}.`
      : `${count(errors, 'error')} and ${count(warnings, 'warning')} in ${where}. --repair mends ${repairable} of them.`;
  out.show(undefined, () => [...findings.map(textOf), `${found}\n`].join('\n'));
  return exitCode;
}

/** A repair that will be made, for people. */
export function showRepair(finding: Finding): string {
  return visible(`${headOf(finding)}: ${finding.repair?.does ?? ''}`);
}

/** A repair that was made, or failed. */
export function showFinding(out: Output, finding: Finding, problem: string | undefined): void {
  if (out.json) out.line({ type: 'repair', ...documentOf(finding), problem: problem ?? null });
  else out.note(visible(`${headOf(finding)}: ${problem === undefined ? 'mended' : `not mended. ${problem}`}`));
}

export function listCodes(out: Output): void {
  const codes = Object.entries(doctorCodes).map(([code, entry]) => ({ code, ...entry }));
  out.show(codes, (width) =>
    tableOf(
      [
        { head: 'CODE', of: ({ code }) => code },
        { head: 'SEVERITY', of: ({ severity }) => severity },
        { head: '--REPAIR', of: ({ mends }) => mends !== null },
        { head: 'MEANING', of: ({ about }) => about },
      ],
      codes,
      width,
    ),
  );
}

function documentOf({ code, severity, cluster, tenant, database, found, todo, repair }: Finding): object {
  return {
    ...{ code, severity, cluster: cluster ?? null, tenant: tenant ?? null, database: database ?? null, found, todo },
    repair: repair?.does ?? null,
  };
}

function headOf({ code, tenant, cluster, database }: Finding): string {
  return [code, tenant?.slug, [cluster, database].filter((part) => part !== undefined).join('/')]
    .filter((part) => part !== undefined && part !== '')
    .join('  ');
}

function textOf(finding: Finding): string {
  const lines = [
    `${finding.severity.padEnd(9)}${headOf(finding)}`,
    `         ${finding.found}`,
    `         ${finding.todo}`,
  ];
  return `${lines.map(visible).join('\n')}\n`;
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`;
}

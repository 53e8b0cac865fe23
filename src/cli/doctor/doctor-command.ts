// `tenantry doctor`: shows what the doctor finds (src/doctor), and lets it repair.
import { InvalidArgumentError, Option } from 'commander';
import { doctorCodes, type DoctorCode } from '../../doctor/doctor-codes.js';
import type { DoctorWish } from '../../doctor/examination.js';
import type { EngineCommand, Given } from '../terminal/cli-command.js';
import { wordList } from '../terminal/common-options.js';
import { EXIT } from '../terminal/exit-codes.js';
import { listCodes, showDiagnosis, showFinding, showRepair } from './shown-findings.js';

export interface DoctorOptions {
  readonly repair?: boolean;
  readonly only?: readonly DoctorCode[];
  readonly tenants?: readonly string[];
  readonly cluster?: string;
  readonly list?: boolean;
}

export const doctor: EngineCommand<DoctorOptions> = {
  name: 'doctor',
  about:
    'Checks the registry, Redis, every server and every tenant, and says what to do. Repairs nothing without --repair.',
  options: [
    new Option('--repair', 'show the repairs that are safe, ask, and make them'),
    new Option('--only <codes>', 'only findings of these codes, with commas in between').argParser(codesIn),
    new Option('--tenants <tenants>', 'only these tenants: slugs or ids, with commas in between').argParser(wordList()),
    new Option('--cluster <cluster>', 'only this server and its tenants: its name or id'),
    new Option('--list', 'show every code and what it means, and check nothing'),
  ],
  example: '--tenants acme,wayne --repair --yes',
  notes:
    'Exit code 0: there is no error; warnings are shown. 1: there are errors. 3: something could not be checked, such as a\nserver that is away; what was found elsewhere is shown. With --json, each finding is a line, and the last line is the\nsummary. --repair drops nothing.',
  kind: 'asks',

  answer({ list = false }, out) {
    if (!list) return Promise.resolve(undefined);
    listCodes(out);
    return Promise.resolve(EXIT.done);
  },

  /** Settings that are wrong, or a registry that cannot be used, are shown as a finding. */
  async unopened(error, out) {
    const { problemSentence } = await import('../../boot/start-problem.js');
    const { finding } = await import('../../doctor/findings.js');
    const sentence = problemSentence(error);
    if (sentence === undefined) return undefined;
    return showDiagnosis(out, { findings: [finding('settings-wrong', {}, sentence)], tenants: 0, servers: 0 });
  },

  async run(given) {
    const { progressBar } = await import('../terminal/progress-bar.js');
    const { engine, options, out } = given;
    const wish = await wishOf(given);
    const bar = progressBar('examining tenants');
    const progress = (done: number, total: number): void => {
      bar.update(done, total);
    };
    try {
      if (options.repair !== true) {
        const diagnosis = await engine.doctor.examine(wish, progress);
        bar.end();
        return showDiagnosis(out, diagnosis, wish);
      }
      const diagnosis = await engine.doctor.mend(wish, await given.origin(), {
        progress,
        async agree(repairs) {
          bar.end();
          for (const each of repairs) out.note(showRepair(each));
          const count = repairs.length === 1 ? 'this repair' : `these ${repairs.length} repairs`;
          await given.ask(`Make ${count}, and the further repairs that they make possible?`);
        },
        repaired(finding, problem) {
          bar.end();
          showFinding(out, finding, problem);
        },
      });
      bar.end();
      return showDiagnosis(out, diagnosis, wish);
    } finally {
      bar.end();
    }
  },
};

/** @throws CommandError if there is no such tenant or cluster */
async function wishOf({ engine, settings, options }: Given<DoctorOptions>): Promise<DoctorWish> {
  const { clusterNamed, tenantNamed } = await import('../terminal/named-rows.js');
  const { only, tenants, cluster } = options;
  const ids: string[] = [];
  for (const name of tenants ?? []) ids.push((await tenantNamed(engine.registry, name)).id);
  if (cluster !== undefined) await engine.defaultCluster.ensure();
  const place = cluster === undefined ? undefined : await clusterNamed(engine.registry, cluster);
  return {
    only,
    ...(tenants && { tenants: ids }),
    ...(place && { place: { host: place.host, port: place.port } }),
    ...(settings.registry.connection === undefined && { dataDir: settings.dataDir }),
  };
}

function codesIn(text: string): DoctorCode[] {
  return wordList()(text).map((name) => {
    if (Object.hasOwn(doctorCodes, name)) return name as DoctorCode;
    throw new InvalidArgumentError('tenantry doctor --list shows the codes.');
  });
}

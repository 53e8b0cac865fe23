// `tenantry clusters check`.
import { operand, type EngineCommand } from '../terminal/cli-command.js';
import { EXIT } from '../terminal/exit-codes.js';
import { fieldsOf } from '../terminal/table.js';

export const clustersCheck: EngineCommand = {
  name: 'check',
  about: 'Checks whether a server can hold tenants. Changes nothing.',
  operands: [{ name: 'cluster', what: 'its name or id' }],
  example: 'frankfurt-1',
  notes: 'If the server cannot hold tenants, the exit code is 4.',
  kind: 'reads',
  async run(given) {
    const { clusterNamed } = await import('../terminal/named-rows.js');
    const { showCheck } = await import('../../operations/cluster-shown.js');
    const { engine, out } = given;
    await engine.clusterRegistration.ensureDefault();
    const { id, name } = await clusterNamed(engine.registry, operand(given));
    const found = showCheck(await engine.clusterRegistration.check(id));
    out.show(found, () =>
      fieldsOf([
        ['cluster', name],
        ['usable', found.usable],
        ['version', found.version],
        ['clock', found.clockSkew === null ? null : `${Math.round(found.clockSkew)} ms ahead`],
        ...found.problems.map((problem) => ['problem', problem] as const),
        ...found.warnings.map((warning) => ['warning', warning] as const),
      ]),
    );
    return found.usable ? undefined : EXIT.refused;
  },
};

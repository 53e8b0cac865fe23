// `tenantry clusters drain`.
import { operand, type EngineCommand } from '../terminal/cli-command.js';

export const clustersDrain: EngineCommand = {
  name: 'drain',
  about: 'Places no new tenants on a cluster, and drops its standby databases.',
  operands: [{ name: 'cluster', what: 'its name or id' }],
  example: 'frankfurt-1',
  kind: 'acts',
  async run(given) {
    const { clusterNamed } = await import('../terminal/named-rows.js');
    const { engine, out } = given;
    await engine.clusterRegistration.ensureDefault();
    const { id, name } = await clusterNamed(engine.registry, operand(given));
    const left = await engine.clusterRegistration.drain(id, await given.origin());
    out.show(
      left,
      () =>
        `The cluster ${name} takes no new tenants. It holds ${left.tenants} tenants and ${left.standbyDatabases} standby databases.\n`,
    );
    return undefined;
  },
};

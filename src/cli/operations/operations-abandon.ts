// `tenantry operations abandon`.
import { operand, type EngineCommand } from '../terminal/cli-command.js';

export const operationsAbandon: EngineCommand = {
  name: 'abandon',
  about: 'Ends an unfinished operation without its remaining steps. This deletes no database, and cannot be undone.',
  operands: [{ name: 'operation', what: 'its id' }],
  example: '01900000-0000-7000-8000-000000000001 --yes',
  kind: 'asks',
  async run(given) {
    const { operationNamed } = await import('../terminal/named-rows.js');
    const { outputOperation } = await import('./shown-operation.js');
    const { engine, out } = given;
    const { id, kind } = await operationNamed(engine.registry, operand(given));
    const origin = await given.origin();
    await given.ask(`Abandon the operation "${kind}" without its remaining steps? This cannot be undone.`);
    outputOperation(out, await engine.steering.abandon(id, origin));
    return undefined;
  },
};

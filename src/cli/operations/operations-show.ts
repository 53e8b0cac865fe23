// `tenantry operations show`.
import { operand, type EngineCommand } from '../terminal/cli-command.js';

export const operationsShow: EngineCommand = {
  name: 'show',
  about: 'Shows an operation: how far it is, and what an operator can do.',
  operands: [{ name: 'operation', what: 'its id' }],
  example: '01900000-0000-7000-8000-000000000001',
  kind: 'reads',
  async run(given) {
    const { operationNamed } = await import('../terminal/named-rows.js');
    const { outputOperation } = await import('./shown-operation.js');
    outputOperation(given.out, await operationNamed(given.engine.registry, operand(given)));
    return undefined;
  },
};

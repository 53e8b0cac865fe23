// `tenantry operations retry`.
import { operand, type EngineCommand } from '../terminal/cli-command.js';

export const operationsRetry: EngineCommand = {
  name: 'retry',
  about: 'Lets a replica try an unfinished operation again at once, also one that waits for a person.',
  operands: [{ name: 'operation', what: 'its id' }],
  example: '01900000-0000-7000-8000-000000000001',
  notes: 'A replica that serves takes the operation. The command does not wait for it.',
  kind: 'acts',
  async run(given) {
    const { operationNamed } = await import('../terminal/named-rows.js');
    const { outputOperation } = await import('./shown-operation.js');
    const { engine, out } = given;
    const { id } = await operationNamed(engine.registry, operand(given));
    outputOperation(out, await engine.steering.retry(id, await given.origin()));
    return undefined;
  },
};

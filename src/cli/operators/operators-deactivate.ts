// `tenantry operators deactivate`.
import { operand, type EngineCommand } from '../terminal/cli-command.js';

export const operatorsDeactivate: EngineCommand = {
  name: 'deactivate',
  about:
    'Deactivates an operator permanently, and ends all of its sessions. The last active operator cannot be deactivated.',
  operands: [{ name: 'email', what: 'the operator' }],
  example: 'ada@example.com --yes',
  kind: 'asks',
  async run(given) {
    const { findOperatorByEmail } = await import('../../../db/registry/operator-queries.js');
    const { deactivateAccount } = await import('../../auth/operators/operator-accounts.js');
    const { CommandError, EXIT } = await import('../terminal/exit-codes.js');
    const { visible } = await import('../terminal/shown-text.js');
    const { engine, out } = given;
    const operator = await findOperatorByEmail(engine.registry, operand(given).toLowerCase());
    if (!operator)
      throw new CommandError(
        EXIT.refused,
        `There is no operator with the e-mail address "${visible(operand(given)).slice(0, 254)}".`,
      );
    const { id, email } = operator;
    const origin = await given.origin();
    await given.ask(`Deactivate the operator ${email}? This cannot be undone.`);
    const ended = await deactivateAccount(engine, operator, origin);
    out.show(
      { id, email, active: false, sessionsEnded: ended },
      () => `The operator ${email} is deactivated. Sessions that have ended: ${ended}\n`,
    );
    return undefined;
  },
};

// `tenantry operators create`.
import { operand, type EngineCommand } from '../terminal/cli-command.js';
import { passwordOptions, passwordSource, type PasswordOptions } from '../terminal/common-options.js';

export const operatorsCreate: EngineCommand<PasswordOptions> = {
  name: 'create',
  about: 'Creates an operator.',
  operands: [{ name: 'email', what: 'its e-mail address' }],
  options: passwordOptions(true),
  example: 'ada@example.com --make-password',
  notes:
    'The password comes from TENANTRY_PASSWORD, --password-file or --stdin, and never from an argument. On a terminal the\ncommand asks for it. A password that is made up is in the output, this once.',
  kind: 'acts',
  inputNames: { '/email': 'The address' },
  async run(given) {
    const { z } = await import('zod');
    const { createOperator } = await import('../../auth/operators/operator-accounts.js');
    const { refusalOf } = await import('../../auth/operators/operator-reset.js');
    const { email: emailRule } = await import('../../lib/input-fields.js');
    const { checkSource, newPassword } = await import('../new-password.js');
    const { checkedInput } = await import('../terminal/checked-input.js');
    const { signInText } = await import('./shown-operator.js');
    const { engine, out } = given;
    const source = passwordSource(given);
    checkSource(source);
    const { email } = checkedInput(z.strictObject({ email: emailRule }), { email: operand(given) });
    const origin = await given.origin(true);
    const made = await newPassword(source, (candidate) => refusalOf(candidate, email));
    const operator = await createOperator(engine, { email, password: made.password }, origin);
    out.show(
      { ...operator, ...(made.generated && { password: made.password }) },
      () => `The operator ${email} (${operator.id}) is created.\n${signInText(email, made)}`,
    );
    return undefined;
  },
};

// `tenantry operators reset-password`: a new password for an operator who has lost it.
import { operand, type EngineCommand } from '../terminal/cli-command.js';
import { passwordOptions, passwordSource, type PasswordOptions } from '../terminal/common-options.js';

export const operatorsResetPassword: EngineCommand<PasswordOptions> = {
  name: 'reset-password',
  about: 'Sets a new password for an operator, and ends all of its sessions.',
  operands: [{ name: 'email', what: 'the operator (default: the only one)', optional: true }],
  options: passwordOptions(true),
  example: 'ada@example.com --make-password',
  notes:
    'The password comes from TENANTRY_PASSWORD, --password-file or --stdin, and never from an argument. On a terminal the\ncommand asks for it. A password that is made up is in the output, this once. After failed sign-ins the service may still\nrefuse the operator for up to 5 minutes.',
  kind: 'acts',
  async run(given) {
    const { checkSource } = await import('../new-password.js');
    const { setPassword } = await import('./set-password.js');
    const { signInText } = await import('./shown-operator.js');
    const { engine, settings, out } = given;
    const source = passwordSource(given);
    checkSource(source);
    const email = operand(given) === '' ? undefined : operand(given);
    const origin = await given.origin();
    const { operator, made, ended } = await setPassword(engine, settings.dataDir, { email, source, origin });
    const shown = { id: operator.id, email: operator.email, sessionsEnded: ended };
    out.show(
      { ...shown, ...(made.generated && { password: made.password }) },
      () =>
        `The new password of ${operator.email} is set. Sessions that have ended: ${ended}\n${signInText(operator.email, made)}`,
    );
    return undefined;
  },
};

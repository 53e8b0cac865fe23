// `tenantry tenants purge`.
import { Option } from 'commander';
import { operand, type EngineCommand } from '../terminal/cli-command.js';

export const tenantsPurge: EngineCommand<{ readonly database?: 'drop' | 'keep' }> = {
  name: 'purge',
  about: 'Removes a deleted tenant and its database at once. This cannot be undone.',
  operands: [{ name: 'tenant', what: 'its slug or id' }],
  options: [
    new Option(
      '--database <what>',
      'what happens to the database (default: drop what the service made, keep what it adopted)',
    ).choices(['drop', 'keep']),
  ],
  example: 'wayne --yes',
  kind: 'asks',
  async run(given) {
    const { tenantNamed } = await import('../terminal/named-rows.js');
    const { engine, options, out } = given;
    const { id, slug } = await tenantNamed(engine.registry, operand(given));
    const origin = await given.origin();
    await given.ask(`Purge the tenant "${slug}" and everything that is in it? This cannot be undone.`);
    await engine.lifecycle.purge(id, origin, options.database);
    out.show({ id, slug, purged: true }, () => `The tenant ${slug} (${id}) is purged.\n`);
    return undefined;
  },
};

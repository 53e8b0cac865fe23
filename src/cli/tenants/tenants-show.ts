// `tenantry tenants show`.
import { operand, type EngineCommand } from '../terminal/cli-command.js';

export const tenantsShow: EngineCommand = {
  name: 'show',
  about: 'Shows a tenant with the settings and limits that are in force.',
  operands: [{ name: 'tenant', what: 'its slug or id' }],
  example: 'wayne',
  kind: 'reads',
  async run(given) {
    const { tenantNamed } = await import('../terminal/named-rows.js');
    const { outputTenant } = await import('./shown-tenant.js');
    await outputTenant(given, await tenantNamed(given.engine.registry, operand(given)));
    return undefined;
  },
};

// `tenantry tenants delete`.
import { operand, type EngineCommand } from '../terminal/cli-command.js';

export const tenantsDelete: EngineCommand = {
  name: 'delete',
  about: 'Deletes a tenant. It can be restored until its grace time is over; then the service purges it.',
  operands: [{ name: 'tenant', what: 'its slug or id' }],
  example: 'wayne --yes',
  kind: 'asks',
  async run(given) {
    const { tenantNamed } = await import('../terminal/named-rows.js');
    const { outputTenant } = await import('./shown-tenant.js');
    const { duration } = await import('../../lib/duration-words.js');
    const { engine, settings } = given;
    const { id, slug } = await tenantNamed(engine.registry, operand(given));
    const origin = await given.origin();
    await given.ask(`Delete the tenant "${slug}"? It can be restored for ${duration(settings.tenants.deletionGrace)}.`);
    await engine.lifecycle.delete(id, origin);
    await outputTenant(given, await tenantNamed(engine.registry, id));
    return undefined;
  },
};

// What the commands have in common that move a tenant from one status to another, and can be undone.
import { operand, type EngineCommand } from '../terminal/cli-command.js';

export function lifecycleAct(name: 'suspend' | 'resume' | 'restore', about: string): EngineCommand {
  return {
    name,
    about,
    operands: [{ name: 'tenant', what: 'its slug or id' }],
    example: 'wayne',
    kind: 'acts',
    async run(given) {
      const { tenantNamed } = await import('../terminal/named-rows.js');
      const { outputTenant } = await import('./shown-tenant.js');
      const { engine } = given;
      const { id } = await tenantNamed(engine.registry, operand(given));
      await outputTenant(given, await engine.lifecycle[name](id, await given.origin()));
      return undefined;
    },
  };
}

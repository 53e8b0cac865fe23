// `tenantry tenants create`.
import { Option } from 'commander';
import { operand, type EngineCommand, type Given } from '../terminal/cli-command.js';
import { passwordOptions, passwordSource, settings, type PasswordOptions } from '../terminal/common-options.js';
import type { TenantRequest } from '../../operations/create/tenant-request.js';

interface CreateOptions extends PasswordOptions {
  readonly slug?: string;
  readonly adminEmail: string;
  readonly adminFirstName: string;
  readonly adminLastName: string;
  readonly region?: string;
  readonly cluster?: string;
  readonly adopt?: string;
  readonly setLimit?: Readonly<Record<string, number>>;
  readonly setPool?: Readonly<Record<string, number>>;
}

export const tenantsCreate: EngineCommand<CreateOptions> = {
  name: 'create',
  about: 'Creates a tenant with its database, its database role and its first admin.',
  operands: [{ name: 'name', what: 'its name' }],
  options: [
    new Option('--slug <slug>', 'its short name (default: made from the name)'),
    new Option('--admin-email <email>', 'the e-mail address of its first admin').makeOptionMandatory(),
    new Option('--admin-first-name <name>', "the admin's first name").makeOptionMandatory(),
    new Option('--admin-last-name <name>', "the admin's last name").makeOptionMandatory(),
    ...passwordOptions(true),
    new Option('--region <region>', 'create the database on a cluster of this region'),
    new Option('--cluster <cluster>', 'create the database on this cluster: its name or id'),
    new Option('--adopt <database>', 'make this existing database of --cluster the database of the tenant'),
    new Option('--set-limit <name=number>', 'a limit of its own; can be given several times').argParser(settings),
    new Option('--set-pool <name=number>', 'a pool option of its own; can be given several times').argParser(settings),
  ],
  example:
    '"Wayne Enterprises" --slug wayne --admin-email bruce@wayne.example --admin-first-name Bruce --admin-last-name Wayne --make-password',
  notes:
    "The admin's password comes from TENANTRY_PASSWORD, --password-file or --stdin, and never from an argument. On a terminal\nthe command asks for it. A password that is made up is in the output, this once.",
  kind: 'acts',
  inputNames: {
    '/name': 'The name',
    '/admin/password': 'The password',
    '/adopt/database': '--adopt',
    '/limits/': '--set-limit',
    '/poolOptions/': '--set-pool',
  },
  async run(given) {
    const { checkSource, newPassword } = await import('../new-password.js');
    const { CreateTenantBody } = await import('../../operations/create/tenant-request.js');
    const { checkedInput } = await import('../terminal/checked-input.js');
    const { showTenant } = await import('../../tenants/tenant-shown.js');
    const { clusterNames } = await import('../terminal/named-rows.js');
    const { tenantText } = await import('./shown-tenant.js');
    const { engine, out } = given;
    const source = passwordSource(given);
    checkSource(source);
    const wanted = await wantedTenant(given);
    // Everything but the password is checked before a person is asked for it.
    checkedInput(CreateTenantBody, { ...wanted, admin: { ...wanted.admin, password: 'a password of its kind' } });
    const origin = await given.origin();
    const { password, generated } = await newPassword(source, () => undefined);
    const request = checkedInput(CreateTenantBody, { ...wanted, admin: { ...wanted.admin, password } });
    const tenant = await engine.tenantRequests.make(request, origin);
    const shown = showTenant(tenant, given.settings.tenants);
    const clusters = await clusterNames(engine.registry);
    out.show({ ...shown, ...(generated && { adminPassword: password }) }, () => {
      const text = tenantText(shown, clusters.get(shown.clusterId));
      return generated ? `${text}\nThe password of ${request.admin.email}, shown this once:\n\n  ${password}\n` : text;
    });
    return undefined;
  },
};

/** The body of the request without the admin's password. */
async function wantedTenant(
  given: Given<CreateOptions>,
): Promise<Omit<TenantRequest, 'admin'> & { admin: Omit<TenantRequest['admin'], 'password'> }> {
  const { CommandError, EXIT } = await import('../terminal/exit-codes.js');
  const { clusterNamed } = await import('../terminal/named-rows.js');
  const { engine, options } = given;
  const { slug, region, cluster, adopt, setLimit, setPool } = options;
  if (adopt !== undefined && cluster === undefined)
    throw new CommandError(EXIT.usage, '--adopt needs --cluster, which has the database.');
  const { id: clusterId } = cluster === undefined ? {} : await clusterNamed(engine.registry, cluster);
  return {
    name: operand(given),
    admin: { email: options.adminEmail, firstName: options.adminFirstName, lastName: options.adminLastName },
    ...(slug !== undefined && { slug }),
    ...(region !== undefined && { region }),
    ...(setLimit && { limits: setLimit }),
    ...(setPool && { poolOptions: setPool }),
    ...(clusterId !== undefined && (adopt === undefined ? { clusterId } : { adopt: { clusterId, database: adopt } })),
  };
}

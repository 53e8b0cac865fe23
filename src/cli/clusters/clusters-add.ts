// `tenantry clusters add`.
import { Option } from 'commander';
import { operand, type EngineCommand } from '../terminal/cli-command.js';
import { passwordOptions, passwordSource, wholeFrom, type PasswordOptions } from '../terminal/common-options.js';
import { fieldsOf } from '../terminal/table.js';

interface AddOptions extends PasswordOptions {
  readonly host: string;
  readonly port?: number;
  readonly region?: string;
  readonly provisionerUser: string;
  readonly tls?: 'off' | 'verify-full';
  readonly tlsCa?: string;
  readonly connectionBudget: number;
  readonly connectionReserve?: number;
  readonly weight?: number;
  readonly standbyTarget?: number;
  readonly accepting: boolean;
}

export const clustersAdd: EngineCommand<AddOptions> = {
  name: 'add',
  about: 'Registers a PostgreSQL server. The command checks it and makes the template database there.',
  operands: [{ name: 'name', what: 'a name for it' }],
  options: [
    new Option('--host <host>', 'its name or address; CLUSTER_HOSTS must allow it').makeOptionMandatory(),
    new Option('--port <port>', 'its port (default: 5432)').argParser(wholeFrom(1, 65_535)),
    new Option('--region <region>', 'its region, such as eu-central'),
    new Option('--provisioner-user <role>', 'the role that makes databases there').makeOptionMandatory(),
    ...passwordOptions(false),
    new Option('--tls <mode>', 'whether its connections use TLS (default: verify-full)').choices([
      'off',
      'verify-full',
    ]),
    new Option('--tls-ca <file>', 'the CA certificates (PEM) to trust'),
    new Option('--connection-budget <n>', 'connections for tenants, of all replicas together')
      .argParser(wholeFrom(2, 100_000))
      .makeOptionMandatory(),
    new Option('--connection-reserve <n>', 'further connections, for provisioning (default: 6)').argParser(
      wholeFrom(2, 1_000),
    ),
    new Option('--weight <n>', 'its share of new tenants (default: 100)').argParser(wholeFrom(1, 1_000)),
    new Option('--standby-target <n>', 'standby databases to keep ready (default: 0)').argParser(wholeFrom(0, 1_000)),
    new Option('--no-accepting', 'place no tenants on it yet'),
  ],
  example:
    'frankfurt-1 --host frankfurt-1.db.example --provisioner-user tenantry_provisioner --connection-budget 90 --password-file provisioner-password',
  notes:
    "The provisioner's password comes from TENANTRY_PASSWORD, --password-file or --stdin, and never from an argument. On a\nterminal the command asks for it.",
  kind: 'acts',
  inputNames: { '/name': 'The name', '/provisionerPassword': 'The password' },
  async run(given) {
    const { readFile } = await import('node:fs/promises');
    const { checkSource, existingPassword } = await import('../new-password.js');
    const { CreateClusterBody } = await import('../../clusters/cluster-request.js');
    const { checkedInput } = await import('../terminal/checked-input.js');
    const { CommandError, EXIT } = await import('../terminal/exit-codes.js');
    const { showClusters } = await import('../../operations/cluster-shown.js');
    const { engine, options, out } = given;
    const { tlsCa } = options;
    const source = passwordSource(given);
    checkSource(source);
    const ca =
      tlsCa === undefined
        ? undefined
        : await readFile(tlsCa, 'utf8').catch((cause: unknown) => {
            throw new CommandError(EXIT.usage, `--tls-ca: ${tlsCa} cannot be read.`, { cause });
          });
    const wanted = { name: operand(given), ...bodyOf(options), ...(ca !== undefined && { tlsCa: ca }) };
    checkedInput(CreateClusterBody, { ...wanted, provisionerPassword: 'x' });
    const origin = await given.origin();
    const provisionerPassword = await existingPassword(source, `Password of ${options.provisionerUser}: `);
    const request = checkedInput(CreateClusterBody, { ...wanted, provisionerPassword });
    const { cluster, warnings } = await engine.clusterRegistration.register(request, origin);
    const [shown] = await showClusters(engine.registry, engine.clusterRegistration, [cluster]);
    out.show({ ...shown, warnings }, () =>
      fieldsOf([
        ['name', cluster.name],
        ['id', cluster.id],
        ['server', `${cluster.host}:${cluster.port}`],
        ['region', cluster.region],
        ['accepting', cluster.accepting],
        ...warnings.map((warning) => ['warning', warning] as const),
      ]),
    );
    return undefined;
  },
};

/** The body's fields, which have the names of the options. */
function bodyOf({ host, port, region, provisionerUser, tls, accepting, weight, ...numbers }: AddOptions): object {
  const { connectionBudget, connectionReserve, standbyTarget } = numbers;
  const optional = { port, region, tls, weight, connectionReserve, standbyTarget };
  const given = Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined));
  return { host, provisionerUser, connectionBudget, accepting, ...given };
}

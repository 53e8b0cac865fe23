// Two builds with different schemas on one registry and one server: the older one is this source, and the newer one is a copy of it
// with more migrations. OLDER_BUILD may name the folder of a former release, with its build, to be the older one.
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { sql } from 'kysely';
import type { DatabaseHandle } from '../../db/driver/client.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { startCluster, type TestCluster } from './cluster.js';
import { connectTo, createRegistryDatabase, OPERATOR, urlOf } from './service.js';
import { isRunning, makeDataDir, runProgram, startProcess, type ServiceProcess } from './service-process.js';
import { copySource, sealMigrations } from './source-copy.js';

/** A migration of the newer build. */
export interface NewMigration {
  readonly of: 'registry' | 'tenant';
  /** Its number follows those of the build. */
  readonly name: string;
  readonly statements: readonly string[];
  readonly transaction?: false;
}

/** What `npm run migrate` reports on its last line. */
export interface Report {
  readonly templateMade: boolean;
  readonly tenantsMigrated: number;
  readonly standbyWithdrawn: number;
  readonly newer: readonly string[];
}

export interface Build {
  start(): Promise<ServiceProcess>;
  /** @returns the report, which builds without JSON lines do not give. @throws Error with its output if it does not end with 0 */
  migrate(...flags: readonly string[]): Promise<Partial<Report>>;
}

export interface TwoBuilds {
  readonly cluster: TestCluster;
  readonly central: DatabaseHandle<Registry>;
  readonly older: Build;
  readonly newer: Build;
  close(): Promise<void>;
}

/** Starts the server, builds the newer build, and starts no service yet. */
export async function prepareTwoBuilds(
  migrations: readonly NewMigration[],
  env: Readonly<Record<string, string>>,
): Promise<TwoBuilds> {
  const { cluster, stop } = await startCluster({ log_statement: 'ddl' });
  const data = await makeDataDir();
  const copy = await copySource();
  for (const migration of migrations) await addMigration(copy.folder, migration);
  await sealMigrations(copy.folder);
  await promisify(execFile)('npm', ['run', '--silent', 'build'], { cwd: copy.folder });
  const database = await emptyRegistryIn(cluster);
  const central = connectTo<Registry>(cluster, database);
  const { superuser, registryOwner, registryService, provisioner } = cluster;
  const all = {
    DATA_DIR: data.dir,
    DATABASE_URL: urlOf({ ...superuser, ...registryService, database }),
    MIGRATION_DATABASE_URL: urlOf({ ...superuser, ...registryOwner, database }),
    TENANT_DATABASE_URL: urlOf(provisioner),
    OPERATOR_EMAIL: OPERATOR.email,
    OPERATOR_PASSWORD: OPERATOR.password,
    ...env,
  };
  const started: ServiceProcess[] = [];

  const buildIn = (folder?: string): Build => ({
    async start() {
      const service = await startProcess(all, folder);
      started.push(service);
      return service;
    },
    async migrate(...flags) {
      const { code, stdout, stderr } = await runProgram('src/cli/migrate.js', all, flags, folder);
      const last = stdout.trim().split('\n').at(-1) ?? '';
      if (code !== 0) throw new Error(stdout + stderr);
      return last.startsWith('{') ? (JSON.parse(last) as { report: Report }).report : {};
    },
  });

  return {
    cluster,
    central,
    older: buildIn(process.env['OLDER_BUILD']),
    newer: buildIn(copy.folder),
    async close() {
      for (const service of started)
        if (isRunning(service.pid)) {
          service.signal('SIGTERM');
          await service.exited;
        }
      await central.close(0);
      await Promise.all([stop(), copy.remove(), data.remove()]);
    },
  };
}

/** Makes the database of a registry that the older build migrates. The server has no template of another registry any more. */
async function emptyRegistryIn(cluster: TestCluster): Promise<string> {
  const name = await createRegistryDatabase(cluster);
  const handle = connectTo<unknown>(cluster, 'postgres');
  const { rows } = await sql<{ template: string }>`
    select datname as template from pg_database where starts_with(datname, 'tenantry_template_')`.execute(handle.db);
  for (const { template } of rows) await sql`drop database ${sql.id(template)}`.execute(handle.db);
  await handle.close(0);
  return name;
}

/** The name of a migration that follows `latest`. */
export function nextMigration(latest: string, name: string): string {
  return `${String(Number(latest.slice(0, 4)) + 1).padStart(4, '0')}_${name}`;
}

async function addMigration(folder: string, { of, name, statements, transaction }: NewMigration): Promise<void> {
  const migrations = path.join(folder, `db/${of}/migrations`);
  const body = statements.map((text) => `  await sql\`${text}\`.execute(db);`).join('\n');
  const flag = transaction === false ? 'export const transaction = false;\n' : '';
  await writeFile(
    path.join(migrations, `${name}.ts`),
    `import { sql, type Kysely } from 'kysely';
${flag}export async function up(db: Kysely<unknown>): Promise<void> {
${body}
}
`,
  );
  const index = path.join(migrations, 'index.ts');
  const variable = `m${name}`;
  const listed = (await readFile(index, 'utf8'))
    .replace(/^};$/m, `  '${name}': ${variable},\n};`)
    .replace(/^import \* as /m, `import * as ${variable} from './${name}.js';\n$&`);
  await writeFile(index, listed);
}

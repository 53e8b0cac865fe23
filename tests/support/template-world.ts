// Two replicas, and a second server that needs a template. Tests of faults in the making of the template use it: they lose answers,
// stop a worker after a step, and read which databases are on the server.
import { sql } from 'kysely';
import { expect, inject, onTestFinished } from 'vitest';
import { findInstallationId } from '../../db/registry/installation.js';
import { insertOperation, type OperationRecord } from '../../db/registry/operations/operation-rows.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import {
  asSuperuser,
  createRegistry,
  startServiceIn,
  type Answer,
  type PageOf,
  type Problem,
  type TestService,
} from './app.js';
import { isOfWork } from './lost-answers.js';
import { startSecondCluster, type SecondCluster } from './second-cluster.js';
import { startStatementProxy, type StatementProxy } from './statement-proxy.js';

/** The schema version of this build's template. */
export const VERSION = latestVersion(tenantMigrations);

export interface TemplateOperation {
  readonly id: string;
  readonly state: string;
  readonly step: string | null;
  readonly attempts: number;
  readonly error: string | null;
  readonly clusterId: string | null;
}

export interface TemplateWorld {
  readonly registry: string;
  readonly second: SecondCluster;
  /** In front of the second server, which is registered by this address. */
  readonly server: StatementProxy;
  /** In front of the registry of `here`. */
  readonly central: StatementProxy;
  readonly here: TestService;
  readonly there: TestService;
  /** The second server. */
  readonly clusterId: string;
  /** `here` throws an error once, after a step. */
  failAfter(step: string, error: Error): void;
  /** `here` stops after a step, until `resume` is called or the test ends. */
  pauseAfter(step: string): { readonly reached: Promise<void>; readonly resume: () => void };
  /** Loses the answer to the first statement that matches. @returns whether it is lost */
  loseAnswer(of: StatementProxy, isLost: (statement: string) => boolean): () => boolean;
  /** Ends what the functions above began. */
  calm(): void;
  /** Registers the second server by the address of a proxy. */
  register(place: Pick<StatementProxy, 'host' | 'port'>): Promise<Answer<Problem & { id: string }>>;
  /** A new address of the second server, for this test. */
  newPlace(): Promise<StatementProxy>;
  namesOf(kind: 'template' | 'building'): Promise<string[]>;
  /** Drops every template, also the half-built ones. */
  dropAll(): Promise<void>;
  /** Expects one template that is complete, and nothing half-built. */
  expectOneTemplate(): Promise<void>;
  /** Makes a database of the provisioner, as a half-built template. */
  halfBuilt(name: string, mark: string | null): Promise<void>;
  installation(): Promise<string>;
  /** Records an operation of the second server. Without a worker, any replica may take it at once. */
  record(given?: { version?: string; worker?: string }): Promise<OperationRecord>;
  /** Records an operation and lets `here` make the first attempt at it. Resolves with its id when it is recorded. */
  begin(): Promise<{ readonly id: string; readonly work: Promise<unknown> }>;
  read(id: string): Promise<TemplateOperation>;
  /** The newest operations, also those of clusters that are not registered. */
  operations(query?: string): Promise<TemplateOperation[]>;
  /** Ends the sessions of the locks, and optionally those on the second server, as if the host of `here` were gone. */
  endSessions(onServer: boolean): Promise<void>;
  close(): Promise<void>;
}

export async function startTemplateWorld(): Promise<TemplateWorld> {
  const cluster = inject('cluster');
  const [second, registry] = await Promise.all([startSecondCluster('templates'), createRegistry()]);
  const server = await startStatementProxy(second.provisioner);
  const central = await startStatementProxy(cluster.superuser);
  let afterStep: (step: string) => void | Promise<void> = () => undefined;
  const env = { RECONCILE_EVERY_MS: '3600000' };
  const there = await startServiceIn(cluster, { registry, env });
  const { operatorToken: token } = there;
  const afterOperationStep = (kind: string, step: string): void | Promise<void> =>
    kind === 'template' ? afterStep(step) : undefined;
  const here = await startServiceIn(
    { ...cluster, superuser: { ...cluster.superuser, host: central.host, port: central.port } },
    { registry, env, operator: false, overrides: { afterOperationStep, operationTimes: { prepareDeadline: 6_000 } } },
  );

  const register: TemplateWorld['register'] = ({ host, port }) =>
    here.send('POST', '/clusters', { token, body: { ...second.body, name: `templates-${port}`, host, port } });
  const registered = await register(server);
  expect(registered.status, registered.text).toBe(201);
  const clusterId = registered.body.id;

  async function namesOf(kind: 'template' | 'building'): Promise<string[]> {
    return (await second.databases()).filter((name) => name.startsWith(`tenantry_${kind}_`));
  }

  async function record({
    version = VERSION,
    worker,
  }: { version?: string; worker?: string } = {}): Promise<OperationRecord> {
    const given = { kind: 'template', subject: clusterId, clusterId, details: { version }, worker };
    const operation = await insertOperation(there.app.engine.registry, given);
    return operation ?? expect.fail('the cluster has an unfinished operation');
  }

  return {
    ...{ registry, second, server, central, here, there, clusterId, register, namesOf, record },

    failAfter(at, error) {
      afterStep = (step) => {
        if (step !== at) return;
        afterStep = () => undefined;
        throw error;
      };
    },

    pauseAfter(at) {
      let resume = (): void => undefined;
      let reach = (): void => undefined;
      const paused = new Promise<void>((resolve) => (resume = resolve));
      const reached = new Promise<void>((resolve) => (reach = resolve));
      onTestFinished(resume);
      afterStep = (step) => {
        if (step !== at) return undefined;
        afterStep = () => undefined;
        reach();
        return paused;
      };
      return { reached, resume };
    },

    loseAnswer(of, isLost) {
      let happened = false;
      of.onStatement = (statement) => {
        if (happened || (of === central && !isOfWork(statement)) || !isLost(statement.sql)) return 'pass';
        happened = true;
        return 'lose';
      };
      return () => happened;
    },

    calm() {
      afterStep = () => undefined;
      for (const proxy of [server, central]) proxy.onStatement = () => 'pass';
    },

    async newPlace() {
      const proxy = await startStatementProxy(second.provisioner);
      onTestFinished(() => proxy.close());
      return proxy;
    },

    async dropAll() {
      const names = [...(await namesOf('template')), ...(await namesOf('building'))];
      await second.asSuperuser('postgres', async (db) => {
        for (const name of names) await sql`drop database ${sql.id(name)} with (force)`.execute(db);
      });
    },

    async expectOneTemplate() {
      expect(await namesOf('building')).toEqual([]);
      const [template = '', ...more] = await namesOf('template');
      expect(more).toEqual([]);
      const { rows } = await second.asSuperuser('postgres', (db) =>
        sql`select datallowconn as open, shobj_description(oid, 'pg_database') as mark
          from pg_database where datname = ${template}`.execute(db),
      );
      const mark = expect.stringMatching(`^tenantry \\S+ template ${VERSION}$`) as string;
      expect(rows).toEqual([{ open: false, mark }]);
    },

    async halfBuilt(name, mark) {
      await second.asSuperuser('postgres', async (db) => {
        const owner = sql.id(second.provisioner.user);
        await sql`create database ${sql.id(name)} owner ${owner} allow_connections false`.execute(db);
        if (mark !== null) await sql`comment on database ${sql.id(name)} is ${sql.lit(mark)}`.execute(db);
      });
    },

    installation: () => findInstallationId(there.app.engine.registry),

    async begin() {
      // Recorded with a worker, so that `there` does not take it at once.
      const { id } = await record({ worker: 'here' });
      return { id, work: here.app.engine.runner.settle(clusterId, 'template') };
    },

    async read(id) {
      return (await there.send<TemplateOperation>('GET', `/operations/${id}`, { token })).body;
    },

    async operations(query = '') {
      const url = `/operations?kind=template${query}`;
      return (await there.send<PageOf<TemplateOperation>>('GET', url, { token })).body.data;
    },

    async endSessions(onServer) {
      // `there` loses its connection too, and holds no lock.
      await asSuperuser(registry, (db) =>
        sql`select pg_terminate_backend(pid, 5000) from pg_stat_activity
          where application_name = 'tenantry locks' and datname = current_database()`.execute(db),
      );
      if (!onServer) return;
      await second.asSuperuser('postgres', (db) =>
        sql`select pg_terminate_backend(pid, 5000) from pg_stat_activity
          where usename = ${second.provisioner.user}`.execute(db),
      );
    },

    async close() {
      await Promise.all([here.close(), there.close()]);
      await Promise.all([server.close(), central.close()]);
      await second.stop();
    },
  };
}

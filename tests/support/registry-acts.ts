// Every route that changes something in the registry, with what a request to it needs.
import { sql } from 'kysely';
import { randomUUID } from 'node:crypto';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import { endRollout, insertUnreached } from './rollout-rows.js';
import { ADMIN, asSuperuser, type Answer, type Problem, type TestService } from './app.js';
import type { SecondCluster } from './second-cluster.js';

/** A request that has a different effect, or none, when it is sent again. */
export interface PreparedAct {
  readonly url: string;
  readonly body?: object;
  /** Another body or query for the same route and key. */
  readonly other: { readonly url?: string; readonly body?: object };
  /** The object that it changes; undefined if the request makes it. */
  readonly target?: string;
}

interface RegistryAct {
  /** The action in the audit. */
  readonly audited: string;
  readonly prepare: () => Promise<PreparedAct>;
}

/** Resolves with a database that can be adopted. */
export async function adoptableDatabase({ config }: TestService): Promise<string> {
  const database = `legacy_${randomUUID().slice(0, 8)}`;
  const owner = config.tenants.provisioner.user;
  await asSuperuser('postgres', async (db) => {
    await sql`create database ${sql.id(database)}`.execute(db);
    await sql`alter database ${sql.id(database)} owner to ${sql.id(owner)}`.execute(db);
  });
  return database;
}

export const newSlug = (): string => `acts-${randomUUID().slice(0, 8)}`;

/** @param second a server that is not registered yet */
export function registryActs(service: TestService, second: SecondCluster): Readonly<Record<string, RegistryAct>> {
  const { registry } = service.app.engine;

  async function done(
    method: 'POST' | 'DELETE',
    url: string,
    body?: object,
  ): Promise<Answer<Problem & { id: string }>> {
    const answer = await service.send<Problem & { id: string }>(method, url, {
      token: service.operatorToken,
      ...(body && { body }),
    });
    if (answer.status >= 300) throw new Error(`${method} ${url} answered ${answer.status}: ${answer.text}`);
    return answer;
  }

  const onTenant =
    (path: string, ...before: readonly (readonly ['POST' | 'DELETE', string])[]) =>
    async (): Promise<PreparedAct & { readonly target: string }> => {
      const { id } = await service.createTenant(newSlug());
      for (const [method, act] of before) await done(method, `/tenants/${id}${act}`);
      const url = `/tenants/${id}${path}`;
      return { url, target: id, other: { url: `${url}?${path === '/purge' ? 'database=keep' : 'x=1'}` } };
    };

  async function cluster(): Promise<string> {
    const { rows } = await sql<{ id: string }>`select id from clusters where port = ${second.body.port}`.execute(
      registry,
    );
    return rows[0]?.id ?? (await done('POST', '/clusters', second.body)).body.id;
  }

  const onCluster = (path: string) => async (): Promise<PreparedAct> => {
    const id = await cluster();
    return { url: `/clusters/${id}${path}`, target: id, other: { url: `/clusters/${id}${path}?x=1` } };
  };

  /** No worker takes it: when others see it, it is due in an hour. */
  const onOperation = (path: string) => async (): Promise<PreparedAct> => {
    const id = await registry.transaction().execute(async (trx) => {
      const made = (await insertOperation(trx, { kind: 'rotate', subject: randomUUID() })) ?? { id: '' };
      await sql`update operations set not_before = now() + interval '1 hour' where id = ${made.id}`.execute(trx);
      return made.id;
    });
    return { url: `/operations/${id}${path}`, target: id, other: { url: `/operations/${id}${path}?x=1` } };
  };

  /** Begins the next rollout: the one before it is ended. Its tenants are on a server that does not answer. */
  async function rollout(): Promise<string> {
    await endRollout(registry);
    return (await done('POST', '/rollouts', {})).body.id;
  }

  const onRollout =
    (path: string, ...before: readonly string[]) =>
    async (): Promise<PreparedAct> => {
      const id = await rollout();
      for (const act of before) await done('POST', `/rollouts/${id}${act}`);
      if (path === '/retry')
        await sql`update rollout_items set state = 'failed' where rollout_id = ${id}`.execute(registry);
      const url = `/rollouts/${id}${path}`;
      return { url, target: id, other: { url: `${url}?${path === '/resume' ? 'budget=1' : 'x=1'}` } };
    };

  const make = (more: object = {}): PreparedAct => {
    const body = { name: 'Made by an act', slug: newSlug(), admin: ADMIN, ...more };
    return { url: '/tenants', body, other: { body: { ...body, name: 'Another' } } };
  };

  return {
    // The first: the later ones use this cluster.
    'POST /clusters': {
      audited: 'cluster.registered',
      prepare: () =>
        Promise.resolve({ url: '/clusters', body: second.body, other: { body: { ...second.body, name: 'another' } } }),
    },
    'PATCH /clusters/:id': {
      audited: 'cluster.updated',
      prepare: async () => ({ ...(await onCluster('')()), body: { weight: 7 }, other: { body: { weight: 8 } } }),
    },
    'POST /clusters/:id/drain': { audited: 'cluster.drained', prepare: onCluster('/drain') },
    'DELETE /clusters/:id': { audited: 'cluster.removed', prepare: onCluster('') },
    'POST /tenants': { audited: 'tenant.created', prepare: () => Promise.resolve(make()) },
    'PATCH /tenants/:id': {
      audited: 'tenant.updated',
      prepare: async () => ({ ...(await onTenant('')()), body: { name: 'New' }, other: { body: { name: 'Newer' } } }),
    },
    'POST /tenants/:id/sign-out': { audited: 'tenant.signed-out', prepare: onTenant('/sign-out') },
    'POST /tenants/:id/suspend': { audited: 'tenant.suspended', prepare: onTenant('/suspend') },
    'POST /tenants/:id/resume': { audited: 'tenant.resumed', prepare: onTenant('/resume', ['POST', '/suspend']) },
    'POST /tenants/:id/rotate-password': {
      audited: 'tenant.password-rotated',
      prepare: onTenant('/rotate-password'),
    },
    'DELETE /tenants/:id': { audited: 'tenant.deleted', prepare: onTenant('') },
    'POST /tenants/:id/restore': { audited: 'tenant.restored', prepare: onTenant('/restore', ['DELETE', '']) },
    'POST /tenants/:id/purge': { audited: 'tenant.purged', prepare: onTenant('/purge', ['DELETE', '']) },
    'POST /rollouts': {
      audited: 'rollout.started',
      prepare: async () => {
        await insertUnreached(registry, 3);
        return { url: '/rollouts', body: { budget: 1 }, other: { body: { budget: 2 } } };
      },
    },
    'POST /rollouts/:id/pause': { audited: 'rollout.paused', prepare: onRollout('/pause') },
    'POST /rollouts/:id/resume': { audited: 'rollout.resumed', prepare: onRollout('/resume', '/pause') },
    'POST /rollouts/:id/retry': { audited: 'rollout.retried', prepare: onRollout('/retry', '/pause') },
    'POST /rollouts/:id/abort': { audited: 'rollout.aborted', prepare: onRollout('/abort') },
    'POST /operations/:id/retry': { audited: 'operation.retried', prepare: onOperation('/retry') },
    'POST /operations/:id/abandon': { audited: 'operation.abandoned', prepare: onOperation('/abandon') },
  };
}

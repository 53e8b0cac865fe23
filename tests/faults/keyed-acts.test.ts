// Acts on the registry with an Idempotency-Key while answers and locks are lost, operations stay unfinished, and clients leave.
import { sql, type Kysely } from 'kysely';
import { request as httpRequest } from 'node:http';
import { expect, it, onTestFinished } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  connectAs,
  createRegistry,
  startServiceForTest,
  type Answer,
  type Problem,
  type TestService,
} from '../support/app.js';
import {
  describeLoss,
  loseOneByOne,
  patiently,
  startReplicas,
  type Loss,
  type Target,
} from '../support/lost-answers.js';
import { newSlug, registryActs, type PreparedAct } from '../support/registry-acts.js';
import { startSecondCluster } from '../support/second-cluster.js';

type Given = Answer<Problem & { readonly id: string; readonly operationId: string; readonly detail: string }>;

function send(
  service: TestService,
  method: string,
  { url, body }: Pick<PreparedAct, 'url' | 'body'>,
  key?: string,
): Promise<Given> {
  return service.send(method as 'POST', url, {
    token: service.operatorToken,
    ...(body && { body }),
    ...(key !== undefined && { headers: { 'idempotency-key': key } }),
  });
}

async function audited(registry: Kysely<Registry>, action: string, target: string): Promise<number> {
  const { rows } = await sql`select from audit where action = ${action} and target_id = ${target}`.execute(registry);
  return rows.length;
}

it('an act whose answer is lost at any statement happens once, when it is repeated on another replica', async () => {
  const second = await startSecondCluster();
  onTestFinished(() => second.stop());
  const replicas = await startReplicas();
  const { here, there } = replicas;
  const acts = registryActs(there, second);
  // One of each way to commit. A cluster that is registered or removed would have to be made again each time.
  const routes = [
    'POST /tenants',
    'PATCH /tenants/:id',
    'POST /tenants/:id/sign-out',
    'POST /tenants/:id/resume',
    'POST /tenants/:id/rotate-password',
    'DELETE /tenants/:id',
    'POST /tenants/:id/restore',
    'POST /tenants/:id/purge',
    'POST /clusters/:id/drain',
    'POST /operations/:id/abandon',
  ];
  const harm: string[] = [];
  let repeated = 0;

  const actWithLoss = async (route: string, target: Target, nth: number): Promise<Loss> => {
    const [method = ''] = route.split(' ');
    const { audited: action, prepare } = acts[route] ?? {
      audited: '',
      prepare: () => Promise.reject(new Error(route)),
    };
    const act = await prepare();
    const registry = there.app.engine.registry;
    const before = act.target === undefined ? 0 : await audited(registry, action, act.target);
    const key = newSlug();
    const loss = replicas.loseAnswer(target, nth);
    const first = await send(here, method, act, key);
    replicas.loseAnswer(target, 0);
    const again = await patiently<Given['body']>(() => send(there, method, act, key));
    const what = describeLoss(`${route}, ${target} ${nth}`, loss.happened ? await loss.statement : 'none');
    if (again.status >= 300)
      harm.push(`${what}: answered with ${first.status}, and then ${again.status}: ${again.text}`);
    else if (first.status < 300 && first.text !== again.text) harm.push(`${what}: two answers`);
    else if (first.status < 300 || again.headers['idempotent-replayed'] === 'true') repeated += 1;
    const effects = (await audited(registry, action, act.target ?? again.body.id)) - before;
    if (effects !== 1) harm.push(`${what}: ${effects} effects, answered with ${first.status} and ${again.status}`);
    return loss;
  };
  const losses = await loseOneByOne(routes, actWithLoss, { independent: true });
  expect(harm).toEqual([]);
  // Otherwise nothing was tested.
  expect(losses).toBeGreaterThan(30);
  expect(repeated).toBeGreaterThan(30);
}, 300_000);

it('a repeated purge that is not finished gets 503 with the same operation, and then the answer of the first', async () => {
  let release: () => void = () => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  const service = await startServiceForTest({
    overrides: {
      afterOperationStep: (kind, step) => (kind === 'remove' && step === 'pools' ? released : undefined),
      operationTimes: { removeDeadline: 300, repeatDeadline: 300 },
    },
  });
  const { registry } = service.app.engine;
  const { id } = await service.createTenant();
  await send(service, 'DELETE', { url: `/tenants/${id}` });
  const purge = () => send(service, 'POST', { url: `/tenants/${id}/purge` }, 'purge');
  const first = await purge();
  expect(first).toMatchObject({ status: 503, body: { code: 'operation-unfinished' } });
  const second = await purge();
  expect(second).toMatchObject({ status: 503, body: { operationId: first.body.operationId } });
  release();
  const last = await patiently<Given['body']>(purge);
  expect([last.status, last.text]).toEqual([204, '']);
  expect(last.headers['idempotent-replayed']).toBe('true');
  expect(await audited(registry, 'tenant.purged', id)).toBe(1);
});

it('an act whose operation was abandoned is not done again with its key', async () => {
  let fails = true;
  const service = await startServiceForTest({
    overrides: {
      afterOperationStep: (kind, step) => {
        if (fails && kind === 'remove' && step === 'pools') throw new Error('made to fail');
      },
      operationTimes: { removeDeadline: 300, longestHeldPause: 100 },
    },
  });
  const { id } = await service.createTenant();
  await send(service, 'DELETE', { url: `/tenants/${id}` });
  const purge = (key: string) => send(service, 'POST', { url: `/tenants/${id}/purge` }, key);
  const first = await purge('abandoned');
  expect(first.status).toBe(503);
  const { operationId } = first.body;
  expect((await send(service, 'POST', { url: `/operations/${operationId}/abandon` })).status).toBe(200);
  fails = false;
  const again = await purge('abandoned');
  expect(again).toMatchObject({ status: 422, body: { code: 'idempotency-key-reused' } });
  expect(again.body.detail).toBe(
    `The operation ${operationId}, which was begun with this key, was abandoned. Use a new key.`,
  );
  expect(again.headers).not.toHaveProperty('idempotent-replayed');
  // It may take longer than this service's deadline for a removal.
  expect((await patiently<Given['body']>(() => purge('another'))).status).toBe(204);
});

it('of two attempts at one request, whose lock was lost, only one commits', async () => {
  const name = await createRegistry();
  const one = await startServiceForTest({ registry: name });
  const other = await startServiceForTest({ registry: name, operator: false });
  const { id } = await one.createTenant();
  const rename = (service: TestService) =>
    send(service, 'PATCH', { url: `/tenants/${id}`, body: { name: 'Once' } }, 'lost-lock');
  const holder = connectAs<Registry>(name);
  onTestFinished(() => holder.close(0));
  let attempts: Promise<Given>[] = [];
  await holder.db.transaction().execute(async (trx) => {
    const waiting = async (): Promise<number> => {
      const { rows } = await sql`
        select from pg_stat_activity where datname = ${name} and wait_event_type = 'Lock'
          and application_name = 'tenantry registry'`.execute(trx);
      return rows.length;
    };
    await sql`select from tenants where id = ${id} for update`.execute(trx);
    attempts = [rename(one)];
    await expect.poll(waiting).toBe(1);
    await sql`select pg_terminate_backend(pid, 5000) from pg_stat_activity
      where datname = ${name} and application_name = 'tenantry locks'`.execute(trx);
    attempts.push(rename(other));
    await expect.poll(waiting).toBe(2);
  });
  const [first, second] = (await Promise.all(attempts)).sort((a, b) => a.status - b.status);
  expect(first?.status, first?.text).toBe(200);
  expect(second).toMatchObject({ status: 409, body: { code: 'idempotency-key-in-use' } });
  expect(await audited(one.app.engine.registry, 'tenant.updated', id)).toBe(1);
  const again = await rename(other);
  expect([again.status, again.text]).toEqual([200, first?.text]);
});

it('a client that leaves keeps no key: its act happened, and the repeated request gets its answer', async () => {
  const name = await createRegistry();
  const service = await startServiceForTest({ registry: name });
  const { id } = await service.createTenant();
  const address = await service.app.listen({ port: 0, host: '127.0.0.1' });
  const url = `/tenants/${id}/sign-out`;
  const holder = connectAs<Registry>(name);
  onTestFinished(() => holder.close(0));
  await holder.db.transaction().execute(async (trx) => {
    await sql`select from tenants where id = ${id} for update`.execute(trx);
    const request = httpRequest(`${address}${url}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${service.operatorToken}`, 'idempotency-key': 'left' },
    });
    request.on('error', () => undefined);
    request.end();
    await expect
      .poll(async () => {
        const { rows } = await sql`
          select from pg_stat_activity where datname = ${name} and wait_event_type = 'Lock'`.execute(trx);
        return rows.length;
      })
      .toBe(1);
    request.destroy();
  });
  const again = await patiently<Given['body']>(() => send(service, 'POST', { url }, 'left'), [409]);
  expect(again.status).toBe(204);
  expect(again.headers['idempotent-replayed']).toBe('true');
  expect(await audited(service.app.engine.registry, 'tenant.signed-out', id)).toBe(1);
});

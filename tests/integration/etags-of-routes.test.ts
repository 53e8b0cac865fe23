// Derived from the routes: each resource that can be read by its id has an ETag, and each of its changes compares If-Match. A new
// resource is looked at as soon as tests/support/route-resources.ts can make one.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { registerCluster } from '../../db/registry/cluster-queries.js';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import { newId } from '../../db/shared/ids.js';
import { startService, type Answer, type TestTenant } from '../support/app.js';
import { dereferenced } from '../support/dereferenced.js';
import { insertStoppedRollout } from '../support/rollout-rows.js';
import { resources } from '../support/route-resources.js';

// The routes are needed while the tests are being listed, hence no beforeAll.
const service = await startService();
afterAll(() => service.close());
let tenant: TestTenant;
beforeAll(async () => {
  tenant = await service.createTenant();
});

/** Resources of operators, which no body of the list makes. */
const madeByOperators: Readonly<Record<string, () => Promise<string>>> = {
  '/tenants': async () => (await service.createTenant()).id,
  '/clusters': async () => {
    const id = newId();
    await registerCluster(service.app.engine.registry, id, {
      name: id,
      host: `${id}.example.com`,
      port: 5432,
      region: null,
      provisionerUser: 'provisioner',
      provisionerPassword: 'not used',
      tls: 'verify-full',
      tlsCa: null,
      connectionBudget: 10,
      connectionReserve: 2,
      weight: 100,
      accepting: false,
      standbyTarget: 0,
    });
    return id;
  },
  '/rollouts': () => insertStoppedRollout(service.app.engine.registry, '9999_etag'),
  '/operations': async () => {
    // Nothing takes it: no build has this kind of operation.
    const values = { kind: 'etag', subject: newId(), worker: 'none' };
    return (await insertOperation(service.app.engine.registry, values))?.id ?? '';
  },
};

interface Operation {
  readonly responses: Readonly<Record<string, { readonly headers?: Readonly<Record<string, unknown>> }>>;
  readonly parameters?: readonly { readonly name: string; readonly in: string }[];
}
const { paths } = dereferenced(
  service.app.swagger() as unknown as { paths: Record<string, Record<string, Operation>> },
);

const routes = service.app.routeTable.filter(({ method }) => method !== 'HEAD');
const single = routes.filter(({ method, url }) => method === 'GET' && url.endsWith('/:id'));
const below = (url: string) => routes.filter((route) => route.url === url || route.url.startsWith(`${url}/`));
const documented = ({ method, url }: { method: string; url: string }): Operation | undefined =>
  paths[url.replace(':id', '{id}')]?.[method.toLowerCase()];
const writes = single
  .flatMap(({ url }) => below(url).map((route) => ({ ...route, of: url })))
  .filter((route) => documented(route)?.responses['412']);

interface Target {
  readonly url: string;
  readonly token: string;
  readonly body: Record<string, unknown> | null | undefined;
}

/** A new object of the resource. @param bodyOf the route whose body is wanted, such as `PATCH /:id` */
async function targetOf(url: string, bodyOf = ''): Promise<Target> {
  const path = url.replace('/:id', '');
  const resource = resources[path];
  const body = resource?.bodies?.[bodyOf];
  const make = madeByOperators[path];
  if (make) return { url: `${path}/${await make()}`, token: service.operatorToken, body };
  // A role's name has at most 50 characters.
  const label = `made-${newId()}`;
  const made = await service.send<{ id: string }>('POST', path, {
    token: tenant.adminToken,
    body: resource?.make?.(label),
  });
  if (made.status !== 201) throw new Error(`could not make one at ${path}: ${made.text}`);
  return { url: `${path}/${made.body.id}`, token: tenant.adminToken, body };
}

function etagOf({ status, headers, text }: Answer): string {
  expect([200, 201], text).toContain(status);
  expect(headers.etag, text).toMatch(/^"[0-9a-f]{1,16}(?:\.[\w-]{11})?"$/);
  return String(headers.etag);
}

it('knows the resources', () => {
  expect(single.map(({ url }) => url)).toEqual(expect.arrayContaining(['/products/:id', '/clusters/:id']));
  expect(writes.map(({ method, url }) => `${method} ${url}`)).toEqual(
    expect.arrayContaining(['PATCH /products/:id', 'DELETE /roles/:id', 'POST /products/:id/stock']),
  );
});

describe.each(single.map(({ url }) => url))('GET %s', (url) => {
  it('has an ETag, and answers 304 without a body to a client that has it', async () => {
    const { url: address, token } = await targetOf(url);
    const read = await service.send('GET', address, { token });
    const etag = etagOf(read);
    for (const known of [etag, `W/${etag}`, `"other", ${etag}`, `"other",,W/${etag} ,`, '*']) {
      const again = await service.send('GET', address, { token, headers: { 'if-none-match': known } });
      expect([known, again.status, again.text, again.headers.etag]).toEqual([known, 304, '', etag]);
      expect(again.headers['content-type']).toBeUndefined();
      expect(again.headers['content-length']).toBeUndefined();
    }
    for (const other of ['"other"', `"other${etag.slice(1)}`, etag.replaceAll('"', ''), `${etag} ${etag}`, '"', ',']) {
      const again = await service.send('GET', address, { token, headers: { 'if-none-match': other } });
      expect([other, again.status, again.text]).toEqual([other, 200, read.text]);
    }
    expect(read.text).not.toContain('rowVersion');
  });

  it('has the same on HEAD', async () => {
    const { url: address, token } = await targetOf(url);
    const etag = etagOf(await service.send('GET', address, { token }));
    const headers = { authorization: `Bearer ${token}` };
    const head = await service.app.inject({ method: 'HEAD', url: address, headers });
    expect([head.statusCode, head.headers.etag, head.payload]).toEqual([200, etag, '']);
    const again = await service.app.inject({
      method: 'HEAD',
      url: address,
      headers: { ...headers, 'if-none-match': etag },
    });
    expect([again.statusCode, again.headers.etag, again.payload]).toEqual([304, etag, '']);
    expect(again.headers['content-length']).toBe(head.headers['content-length']);
  });

  it('is documented with its headers, as are its changes', () => {
    const read = documented({ method: 'GET', url });
    expect(read?.responses['200']?.headers).toHaveProperty('ETag');
    expect(read?.responses['304']?.headers).toHaveProperty('ETag');
    expect(read?.parameters?.map(({ name }) => name)).toContain('If-None-Match');
    for (const route of below(url)) {
      const compares = route.url === url && ['PATCH', 'DELETE'].includes(route.method);
      const { parameters = [], responses = {} } = documented(route) ?? {};
      if (compares) expect(Object.keys(responses), route.method).toContain('412');
      expect(parameters.some(({ name }) => name === 'If-Match')).toBe('412' in responses);
    }
  });
});

describe.each(writes.map(({ method, url, of }) => [method, url, of] as const))('%s %s', (method, url, of) => {
  const send = (target: Target, ifMatch?: string): Promise<Answer> =>
    service.send(method as 'PATCH', target.url + url.slice(of.length), {
      token: target.token,
      ...(target.body && { body: target.body }),
      ...(ifMatch !== undefined && { headers: { 'if-match': ifMatch } }),
    });
  const read = ({ url: address, token }: Target): Promise<Answer> => service.send('GET', address, { token });

  it('refuses a stale ETag with 412, and changes nothing', async () => {
    const target = await targetOf(of, `${method} ${url.slice(of.length - '/:id'.length)}`);
    const stale = etagOf(await read(target));
    const change = resources[of.replace('/:id', '')]?.bodies?.['PATCH /:id'];
    const changed = await service.send('PATCH', target.url, { token: target.token, body: change });
    expect(etagOf(changed)).not.toBe(stale);
    const before = await read(target);
    for (const given of [stale, `W/${stale}`, '"other"', `"other", ${stale}`, '""']) {
      const refused = await send(target, given);
      expect([given, refused.status, refused.body['code']]).toEqual([given, 412, 'precondition-failed']);
    }
    const after = await read(target);
    expect([after.status, after.text, after.headers.etag]).toEqual([200, before.text, before.headers.etag]);
  });

  it.each([
    ['the current ETag', (etag: string) => etag],
    ['the current ETag, made weak by a proxy', (etag: string) => `W/${etag}`],
    ['a list with it', (etag: string) => `"other", W/"another" ,,${etag}`],
    ['*', () => '*'],
    ['no If-Match', () => undefined],
  ])('accepts %s', async (_what, given) => {
    const target = await targetOf(of, `${method} ${url.slice(of.length - '/:id'.length)}`);
    const answer = await send(target, given(etagOf(await read(target))));
    expect(answer.status, answer.text).toBe(method === 'DELETE' ? 204 : 200);
    // The answer has the ETag of what it shows.
    if (method !== 'DELETE') expect(etagOf(answer)).toBe(etagOf(await read(target)));
  });

  it('refuses an If-Match that is not valid with 400, in words', async () => {
    const target = await targetOf(of, `${method} ${url.slice(of.length - '/:id'.length)}`);
    for (const given of ['abc', '"a" "b"', '"a', '', ',', 'w/"a"', '*, "a"']) {
      const { status, body } = await send(target, given);
      expect([given, status, body['code']]).toEqual([given, 400, 'invalid-request']);
      expect(body['detail']).toContain('If-Match');
    }
  });

  it('answers 404 for what does not exist, whatever If-Match says', async () => {
    const target = await targetOf(of, `${method} ${url.slice(of.length - '/:id'.length)}`);
    const gone = { ...target, url: target.url.replace(/[^/]+$/, newId()) };
    for (const given of ['"other"', '*']) expect((await send(gone, given)).status).toBe(404);
  });
});

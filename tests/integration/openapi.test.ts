// The API description agrees with the routes: nothing is missing, and nothing is invented.
import fastify, { type FastifyInstance } from 'fastify';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { authentication } from '../../plugins/caller/authentication.js';
import { quotas } from '../../plugins/http/quotas.js';
import { rateLimit } from '../../plugins/http/rate-limit.js';
import type { AdmissionSteps } from '../../src/http/admission-steps.js';
import type { Engine } from '../../src/engine/index.js';
import { Counts } from '../../src/replicas/counts.js';
import fp from 'fastify-plugin';
import type { RouteAccess, RouteEntry } from '../../src/auth/route-access.js';
import { catalogue } from '../../src/errors.js';
import { startService, testConfig, type TestService } from '../support/app.js';
import { dereferenced } from '../support/dereferenced.js';
import { OPENAPI_FILE, openApiReference, type OpenApiDocument } from '../support/reference-pages.js';

/** A JSON schema, with the keys that this file checks. */
interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: boolean | Schema;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
  readonly enum?: readonly unknown[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly default?: unknown;
}

interface Content {
  readonly content?: Readonly<Record<string, { readonly schema: Schema; readonly example?: unknown }>>;
  readonly headers?: Readonly<Record<string, unknown>>;
  readonly description?: string;
}

interface Operation {
  readonly operationId?: string;
  readonly tags?: readonly string[];
  readonly summary?: string;
  readonly description?: string;
  readonly 'x-permission'?: string;
  readonly security?: readonly Readonly<Record<string, readonly string[]>>[];
  readonly parameters?: readonly {
    readonly name: string;
    readonly in: string;
    readonly required?: boolean;
    readonly schema: Schema;
  }[];
  readonly requestBody?: Content & { readonly required?: boolean };
  readonly responses: Readonly<Record<string, Content>>;
}

interface Document {
  readonly openapi: string;
  readonly info: { readonly title: string; readonly version: string };
  readonly servers: readonly { readonly url: string }[];
  readonly tags: readonly { readonly name: string; readonly description: string }[];
  readonly components: { readonly securitySchemes: object; readonly schemas?: Readonly<Record<string, Schema>> };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

/** These routes take no body: their address says what to do. */
const WITHOUT_BODY = [
  'POST /auth/logout',
  'POST /auth/logout-all',
  ...['sign-out', 'suspend', 'resume', 'restore', 'purge', 'rotate-password'].map((act) => `POST /tenants/:id/${act}`),
  'POST /clusters/:id/check',
  'POST /clusters/:id/drain',
  'POST /operations/:id/retry',
  'POST /operations/:id/abandon',
  ...['pause', 'resume', 'retry', 'abort'].map((act) => `POST /rollouts/:id/${act}`),
];

let service: TestService;
/** As it is served, with references. */
let document: Document;
/** Without references. */
let documented: { route: RouteEntry; name: string; operation: Operation }[];
beforeAll(async () => {
  service = await startService();
  const answer = await service.send<Document>('GET', '/docs/json');
  expect(answer.status).toBe(200);
  expect(answer.headers['content-type']).toMatch(/^application\/json/);
  document = answer.body;
  const { paths } = dereferenced(document);
  documented = apiRoutes().map((route) => {
    const operation = paths[pathOf(route)]?.[route.method.toLowerCase()];
    if (!operation) throw new Error(`${route.method} ${route.url} is not documented`);
    return { route, name: `${route.method} ${route.url}`, operation };
  });
});
afterAll(() => service.close());

function apiRoutes(): RouteEntry[] {
  return service.app.routeTable.filter(({ url }) => url !== '/' && !url.startsWith('/docs'));
}

/** `/products/:id` as OpenAPI writes it. */
function pathOf({ url }: RouteEntry): string {
  return url.replaceAll(/:(\w+)/g, '{$1}');
}

/** The answers of an operation, which must include these statuses. */
function answers(...statuses: string[]): unknown {
  return expect.objectContaining(Object.fromEntries(statuses.map((status) => [status, expect.anything()])));
}

/** Every schema in a value, outer schemas first. */
function* schemasIn(value: unknown): Generator<Schema> {
  if (typeof value !== 'object' || value === null) return;
  if (!Array.isArray(value)) yield value;
  for (const inner of Object.values(value)) yield* schemasIn(inner);
}

describe('/docs/json', () => {
  it('is OpenAPI 3.1 with a title, a version and the bearer scheme', () => {
    expect(document.openapi).toMatch(/^3\.1\.\d$/);
    expect(document.info).toMatchObject({ title: 'Tenantry', version: expect.stringMatching(/./) as string });
    expect(document.components.securitySchemes).toEqual({
      bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' },
    });
  });

  it('is docs/reference/openapi.json; npm run docs:reference writes it', async () => {
    expect(await openApiReference(document as unknown as OpenApiDocument)).toBe(readFileSync(OPENAPI_FILE, 'utf8'));
  });

  it('has every route and no other', () => {
    const inDocument = Object.entries(document.paths).flatMap(([path, operations]) =>
      Object.keys(operations).map((method) => `${method} ${path}`),
    );
    const inTable = apiRoutes().map((route) => `${route.method.toLowerCase()} ${pathOf(route)}`);
    expect(inDocument.length).toBeGreaterThanOrEqual(20);
    expect(new Set(inDocument)).toEqual(new Set(inTable));
  });

  it('gives every operation a summary, a described tag and an operationId of its own', () => {
    const described = document.tags.map(({ name }) => name);
    for (const { name, operation } of documented) {
      expect([name, operation.summary]).toEqual([name, expect.stringMatching(/./) as string]);
      expect([name, operation.tags]).toEqual([name, [expect.toBeOneOf(described)]]);
      expect([name, operation.operationId]).toEqual([
        name,
        expect.stringMatching(/^[a-z]+(?:[A-Z][a-z]+)*$/) as string,
      ]);
    }
    for (const { name, description } of document.tags) {
      expect(description).toMatch(/^[A-Z].*\.$/);
      expect(documented.filter(({ operation }) => operation.tags?.includes(name)).length, name).toBeGreaterThan(0);
    }
    const ids = documented.map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    const ofProducts = documented.filter(({ route }) => route.url.startsWith('/products'));
    expect(Object.fromEntries(ofProducts.map(({ name, operation }) => [name, operation.operationId]))).toEqual({
      'GET /products': 'listProducts',
      'POST /products': 'createProduct',
      'GET /products/:id': 'getProduct',
      'PATCH /products/:id': 'updateProduct',
      'DELETE /products/:id': 'deleteProduct',
      'POST /products/:id/stock': 'adjustProductStock',
    });
    expect(ids).toContain('createTenant');
  });

  it('names every body, and shares what operations have in common', () => {
    const reference = /^#\/components\/schemas\/[A-Z][A-Za-z]+$/;
    for (const [path, operations] of Object.entries(document.paths))
      for (const [method, { requestBody, responses }] of Object.entries(operations)) {
        const bodies = [requestBody, ...Object.values(responses)].flatMap((one) => Object.values(one?.content ?? {}));
        for (const { schema } of bodies)
          expect([method, path, schema]).toEqual([method, path, { $ref: expect.stringMatching(reference) as string }]);
        for (const [status, answer] of Object.entries(responses).filter(([code]) => code >= '300'))
          expect([method, path, status, (answer as Schema).$ref]).toEqual([
            method,
            path,
            status,
            expect.stringMatching(/^#\/components\/responses\//) as string,
          ]);
      }
    expect(Object.keys(document.components.schemas ?? {})).toEqual(
      expect.arrayContaining(['Problem', 'Product', 'ProductPage', 'CreateProduct', 'User', 'Tenant', 'Role']),
    );
  });

  it('leaves answers open for further keys', () => {
    for (const { name, operation } of documented)
      for (const schema of schemasIn(operation.responses))
        expect([name, schema.additionalProperties]).not.toEqual([name, false]);
  });

  it('names the server', () => {
    expect(document.servers).toEqual([expect.objectContaining({ url: '/' })]);
  });

  it('types the numbers and booleans of queries, with bounds and defaults', () => {
    const types = new Set<unknown>();
    for (const { name, operation } of documented)
      for (const { name: parameter, in: place, schema } of operation.parameters ?? []) {
        if (place !== 'query') continue;
        types.add(schema.type);
        if (parameter === 'limit')
          expect([name, schema]).toEqual([
            name,
            { type: 'integer', minimum: 1, maximum: name.includes('/pools') ? 1_000 : 100, default: schema.default },
          ]);
        if (parameter === 'limit') expect(schema.default).toBe(name.includes('/pools') ? 100 : 20);
        if (['active', 'accepting'].includes(parameter)) expect([name, schema]).toEqual([name, { type: 'boolean' }]);
        if (parameter === 'maxStock') expect(schema).toEqual({ type: 'integer', minimum: 0, maximum: 2_147_483_647 });
      }
    expect(types).toContain('integer');
    expect(types).toContain('boolean');
  });

  it('has the headers of every answer', () => {
    for (const { name, route, operation } of documented)
      for (const [status, { headers = {} }] of Object.entries(operation.responses)) {
        const names = Object.keys(headers);
        expect([name, status, names]).toEqual([name, status, expect.arrayContaining(['X-Request-Id'])]);
        if (status === '201') expect([name, names]).toEqual([name, expect.arrayContaining(['ETag', 'Location'])]);
        if (status === '401') expect([name, names]).toEqual([name, expect.arrayContaining(['WWW-Authenticate'])]);
        if (status === '429' || status === '503')
          expect([name, names]).toEqual([name, expect.arrayContaining(['Retry-After'])]);
        if (status.startsWith('2') && route.access.scope === 'tenant' && route.method !== 'GET')
          expect([name, names]).toEqual([name, expect.arrayContaining(['Idempotent-Replayed'])]);
      }
  });

  it('has an example for every body of a request', () => {
    const bodies = documented.flatMap(({ operation }) => Object.values(operation.requestBody?.content ?? {}));
    expect(bodies.length).toBeGreaterThan(15);
    for (const { example } of bodies) expect(example).toEqual(expect.any(Object));
  });

  it('is smaller than 200 KB, and made once', async () => {
    const answer = await service.app.inject('/docs/json');
    expect(answer.body.length).toBeLessThan(200_000);
    const { etag } = answer.headers;
    expect(etag).toMatch(/^"[\w-]{22}"$/);
    expect(answer.headers['cache-control']).toBe('public, no-cache');
    for (const [url, known, status] of [
      ['/docs/json', String(etag), 304],
      ['/docs/json', '"another"', 200],
      ['/docs/yaml', String((await service.app.inject('/docs/yaml')).headers.etag), 304],
    ] as const) {
      const conditional = await service.app.inject({ url, headers: { 'if-none-match': known } });
      expect([url, conditional.statusCode, conditional.body === '']).toEqual([url, status, status === 304]);
    }
    // What changes afterwards would be seen if the text was made again.
    const made = service.app.swagger() as { info: { title: string } };
    made.info.title = 'Changed';
    expect((await service.app.inject('/docs/json')).body).toBe(answer.body);
    made.info.title = 'Tenantry';
  });

  it('shows for every secured route the required token and the errors', () => {
    for (const { name, route, operation } of documented) {
      const secured = route.access.scope !== 'public';
      expect([name, operation.security]).toEqual([name, secured ? [{ bearer: [] }] : []]);
      const all = ['400', '408', '414', '429', '431', '500', '503'];
      const expected = secured ? ['401', '403', ...all] : all;
      expect([name, Object.keys(operation.responses)]).toEqual([
        name,
        expect.arrayContaining(expected) as readonly string[],
      ]);
      const { permission, recent, scope } = route.access;
      const suspended = operation.responses['403']?.description?.includes('`tenant-suspended`') ?? false;
      expect([name, suspended]).toEqual([name, scope === 'tenant' || scope === 'platform']);
      const declared = [operation.description, operation.responses['403']?.description].map((text) =>
        /recent sign-in|confirmation-needed/.test(text ?? ''),
      );
      expect([name, declared]).toEqual([name, Array(2).fill(recent !== undefined)]);
      expect([name, operation['x-permission']]).toEqual([name, permission]);
      if (permission && permission !== 'self') expect(operation.description).toContain(`\`${permission}\``);
    }
  });

  it('shows every error as a problem document, and exactly one success', () => {
    for (const { name, operation } of documented) {
      const statuses = Object.keys(operation.responses);
      expect([name, statuses.filter((status) => status.startsWith('2'))]).toEqual([
        name,
        [expect.stringMatching(/^20[014]$/) as string],
      ]);
      for (const [status, { content, description }] of Object.entries(operation.responses)) {
        expect([name, status, description]).toEqual([name, status, expect.any(String) as string]);
        if (status === '204' || status === '304') expect([name, content]).toEqual([name, undefined]);
        else if (status.startsWith('2')) expect(Object.keys(content ?? {})).toEqual(['application/json']);
        else {
          expect([name, status, Object.keys(content ?? {})]).toEqual([name, status, ['application/problem+json']]);
          const schema = content?.['application/problem+json']?.schema;
          expect(schema?.required).toEqual(expect.arrayContaining(['type', 'title', 'status', 'code', 'requestId']));
          expect(schema?.properties?.['code']?.enum).toEqual(Object.keys(catalogue));
        }
      }
    }
  });

  it('shows request bodies that allow no unknown key', () => {
    const withBody = documented.filter(
      ({ name, route }) => (route.method === 'POST' || route.method === 'PATCH') && !WITHOUT_BODY.includes(name),
    );
    expect(withBody.length).toBeGreaterThanOrEqual(10);
    for (const { name, operation } of withBody) {
      const schema = operation.requestBody?.content?.['application/json']?.schema;
      expect([name, operation.requestBody?.required]).toEqual([name, true]);
      expect([name, schema?.type]).toEqual([name, 'object']);
      const objects = [...schemasIn(schema)].filter(({ properties }) => properties !== undefined);
      for (const { additionalProperties } of objects) {
        expect([name, additionalProperties]).toEqual([name, false]);
      }
      expect([name, Object.keys(operation.responses)]).toEqual([
        name,
        expect.arrayContaining(['400', '413', '415']) as readonly string[],
      ]);
    }
    for (const { name, route, operation } of documented) {
      if (route.method === 'GET' || route.method === 'DELETE' || WITHOUT_BODY.includes(name))
        expect(operation.requestBody).toBeUndefined();
    }
  });

  it('shows the 400 of every address that does not decode, and the 413 and 415 of a DELETE with a body', async () => {
    for (const { name, operation } of documented) expect([name, operation.responses]).toEqual([name, answers('400')]);
    const deletes = documented.filter(({ route }) => route.method === 'DELETE');
    expect(deletes.length).toBeGreaterThanOrEqual(3);
    for (const { name, operation } of deletes) {
      expect([name, operation.responses]).toEqual([name, answers('413', '415')]);
    }
    expect((await service.send('GET', '/auth/me?x=%00', { token: service.operatorToken })).status).toBe(400);
    const headers = { 'content-type': 'text/plain' };
    const id = '01900000-0000-7000-8000-00000000ffff';
    const token = service.operatorToken;
    expect((await service.send('DELETE', `/tenants/${id}`, { token, headers, body: 'x' })).status).toBe(415);
  });

  it('shows an amount as a string or a number', () => {
    const price = documented.find(({ name }) => /^POST \/products\/?$/.test(name))?.operation.requestBody?.content?.[
      'application/json'
    ]?.schema.properties?.['price'];
    expect(Object.keys(price ?? {}).filter((key) => !['type', 'anyOf'].includes(key))).toEqual([]);
    expect(price?.anyOf).toEqual([
      expect.objectContaining({ type: 'string', pattern: expect.stringMatching(/./) as string }) as Schema,
      expect.objectContaining({ type: 'number', minimum: 0, maximum: 9_999_999_999.99 }) as Schema,
    ]);
  });

  it('shows which keys of a body are required', () => {
    const body = (path: string, method: string): Schema | undefined =>
      dereferenced(document).paths[path]?.[method]?.requestBody?.content?.['application/json']?.schema;
    const [products = '', product = ''] = Object.keys(document.paths).filter((path) => path.startsWith('/products'));
    expect(body(products, 'post')?.required?.toSorted()).toEqual(['name', 'price']);
    expect(body(product, 'patch')?.required ?? []).toEqual([]);
    expect(Object.keys(body(product, 'patch')?.properties ?? {})).toContain('stockQuantity');
  });

  it('shows every parameter with its type', () => {
    for (const { name, route, operation } of documented) {
      const inPath = [...route.url.matchAll(/:(\w+)/g)].map(([, parameter]) => parameter);
      const parameters = operation.parameters ?? [];
      expect([name, parameters.filter((each) => each.in === 'path').map((each) => each.name)]).toEqual([name, inPath]);
      for (const each of parameters) {
        expect([name, each.name, each.schema.type ?? each.schema.anyOf ?? each.schema.enum]).toEqual([
          name,
          each.name,
          expect.anything() as unknown,
        ]);
        if (each.in === 'path') expect([name, each.required]).toEqual([name, true]);
        else expect([name, each.required ?? false]).toEqual([name, false]);
      }
      if (inPath.length > 0) expect(Object.keys(operation.responses)).toEqual(expect.arrayContaining(['400', '404']));
    }
    const query = (path: RegExp): string[] | undefined =>
      documented
        .find(({ name }) => path.test(name))
        ?.operation.parameters?.map((parameter) => parameter.name)
        .sort();
    const list = ['cursor', 'limit', 'search', 'sort'];
    expect(query(/^GET \/products\/?$/)).toEqual(
      [...list, 'active', 'category', 'maxPrice', 'maxStock', 'minPrice'].sort(),
    );
    expect(query(/^GET \/users\/?$/)).toEqual([...list, 'active', 'role'].sort());
    expect(query(/^GET \/tenants\/?$/)).toEqual([...list, 'status'].sort());
  });

  it('contains JSON Schema of 2020-12, without leftovers of OpenAPI 3.0 and without broken references', () => {
    for (const schema of schemasIn(document)) expect(Object.keys(schema)).not.toContain('nullable');
    expect(JSON.stringify(dereferenced(document))).not.toContain('$ref');
    const text = JSON.stringify(document);
    expect(text).not.toMatch(/"exclusiveM(?:in|ax)imum":(?:true|false)/);
  });

  it('reveals nothing internal', () => {
    expect(JSON.stringify(document)).not.toMatch(/db_?(?:password|user|host|name)|passwordHash|postgres:\/\//i);
  });

  it('describes the real answers', async () => {
    const tenant = await service.createTenant('described');
    const token = tenant.adminToken;
    const product = await service.send('POST', '/products', { token, body: { name: 'x', price: '1' } });
    for (const [url, answer] of [
      ['POST /products', product],
      ['GET /users/:id', await service.send('GET', `/users/${tenant.adminId}`, { token })],
      ['GET /tenants/:id', await service.send('GET', `/tenants/${tenant.id}`, { token })],
      ['GET /auth/me', await service.send('GET', '/auth/me', { token })],
      ['GET /products', await service.send('GET', '/products', { token })],
    ] as const) {
      const entry = documented.find(({ name }) => name === url || name === `${url}/`);
      const schema = entry?.operation.responses[String(answer.status)]?.content?.['application/json']?.schema;
      expect([url, mismatch(schema, answer.body)]).toEqual([url, undefined]);
    }
  });
});

describe('/', () => {
  it('leads browsers to the page, and programs to the description', async () => {
    const accept = 'text/html,application/xhtml+xml;q=0.9,*/*;q=0.8';
    const to = async (headers: Record<string, string>): Promise<unknown[]> => {
      const answer = await service.app.inject({ url: '/', headers });
      return [answer.statusCode, answer.headers.location];
    };
    expect(await to({ accept })).toEqual([302, '/docs']);
    expect(await to({ accept: '*/*' })).toEqual([302, '/docs/json']);
    expect(await to({})).toEqual([302, '/docs/json']);
  });
});

describe('/docs', () => {
  it('has the name of the service, and keeps the authorization', async () => {
    const page = await service.app.inject('/docs');
    expect(page.body).toContain('<title>Tenantry API</title>');
    expect(page.body).not.toMatch(/favicon-\d+x/);
    expect((await service.app.inject('/docs/static/theme/icon.svg')).headers['content-type']).toBe('image/svg+xml');
    const script = await service.app.inject('/docs/static/swagger-initializer.js');
    expect(script.body).toContain('"persistAuthorization":true');
    // The other layout has a bar with the name of Swagger.
    expect(script.body).toContain('"layout":"BaseLayout"');
  });

  it('is a page whose policy allows its own scripts and styles, and no other', async () => {
    const { app } = service;
    const redirected = await app.inject('/docs');
    const page = redirected.statusCode === 200 ? redirected : await app.inject('/docs/');
    expect(page.statusCode).toBe(200);
    expect(page.headers['content-type']).toMatch(/^text\/html/);
    expect(page.headers['x-content-type-options']).toBe('nosniff');
    const policy = policyOf(String(page.headers['content-security-policy']));
    const scriptSources = policy.get('script-src') ?? policy.get('default-src');
    expect(scriptSources).toEqual(["'self'"]);
    expect(policy.get('frame-ancestors')).toEqual(["'none'"]);

    const html = page.body;
    const scripts = [...html.matchAll(/<script\b([^>]*)>([\s\S]*?)<\/script>/g)];
    expect(scripts.length).toBeGreaterThan(0);
    const urls = scripts.map(([, attributes = '', inline = '']) => {
      // 'self' does not allow inline scripts.
      expect(inline.trim()).toBe('');
      return /src="([^"]+)"/.exec(attributes)?.[1] ?? '';
    });
    const styles = [...html.matchAll(/<link\b[^>]*rel="stylesheet"[^>]*>/g)].map(
      ([tag]) => /href="([^"]+)"/.exec(tag)?.[1] ?? '',
    );
    expect(styles.length).toBeGreaterThan(0);
    for (const url of [...urls, ...styles]) {
      const { origin, pathname } = new URL(url, 'http://service.example/docs/');
      expect(origin).toBe('http://service.example');
      const file = await app.inject(pathname);
      expect([url, file.statusCode]).toEqual([url, 200]);
      expect(file.headers['content-type']).toMatch(styles.includes(url) ? /css/ : /javascript/);
    }
    expect(html).not.toMatch(/\son\w+="/);
  });
});

describe('every route', () => {
  it('declares its scope', () => {
    for (const { method, url, access } of service.app.routeTable) {
      expect([method, url, access.scope]).toEqual([
        method,
        url,
        expect.stringMatching(/^(?:public|tenant|operator|platform)$/) as string,
      ]);
    }
  });

  it('must declare its scope, or the service does not start', async () => {
    const build = async (): Promise<FastifyInstance> => {
      const app = fastify();
      app.decorate('steps', {} as AdmissionSteps);
      app.decorate('engine', { counts: new Counts() } as Engine);
      await app.register(fp(async () => undefined, { name: 'engine' }));
      await app.register(quotas);
      await app.register(rateLimit, { max: 10 });
      await app.register(authentication, { config: testConfig('unused').auth });
      app.get('/declared', { config: { access: { scope: 'public' } } }, () => 'ok');
      return app;
    };
    const good = await build();
    await good.ready();
    expect((await good.inject('/declared')).statusCode).toBe(200);
    await good.close();

    const bad = await build();
    bad.get('/forgotten', () => 'open to all');
    await expect(bad.ready()).rejects.toThrow('GET /forgotten');
    await bad.close();

    const halfway = await build();
    halfway.get('/half', { config: { access: { scope: 'tenant' } as RouteAccess } }, () => 'open to every user');
    await expect(halfway.ready()).rejects.toThrow('GET /half');
    await halfway.close();
  });
});

function policyOf(header: string): Map<string, string[]> {
  return new Map(
    header.split(';').map((directive) => {
      const [name = '', ...sources] = directive.trim().split(/\s+/);
      return [name, sources];
    }),
  );
}

/** Where a value differs from its schema: missing keys, unknown keys, and types. */
function mismatch(schema: Schema | undefined, value: unknown, path = ''): string | undefined {
  if (!schema) return `${path}: not described`;
  if (schema.anyOf) {
    return schema.anyOf.some((option) => mismatch(option, value, path) === undefined)
      ? undefined
      : `${path}: no option`;
  }
  const types = [schema.type ?? []].flat();
  const actual = value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value;
  const isWhole = Number.isInteger(value) && types.includes('integer');
  if (types.length > 0 && !types.includes(actual) && !isWhole)
    return `${path}: ${actual} instead of ${types.join(' or ')}`;
  if (Array.isArray(value)) {
    return value.map((item, index) => mismatch(schema.items, item, `${path}/${index}`)).find(Boolean);
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const missing = schema.required?.find((key) => !(key in value));
  if (missing !== undefined) return `${path}/${missing}: missing`;
  return Object.entries(value)
    .map(([key, inner]) => mismatch(schema.properties?.[key], inner, `${path}/${key}`))
    .find(Boolean);
}

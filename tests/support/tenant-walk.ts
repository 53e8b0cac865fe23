// A walk over every route that a tenant's users have, with the answers that its requests must get.
import { resources } from './route-resources.js';
import { ADMIN, type Answer, type Send } from './service.js';

type Method = Parameters<Send>[0];

interface Created {
  readonly id: string;
}

interface SignedIn {
  readonly accessToken: string;
  readonly refreshToken: string;
}

const PASSWORD = 'walker-password-123';

/**
 * Signs in as ADMIN, uses every route, and removes what it made. It can walk again.
 *
 * @param tenant has ADMIN as an admin
 * @param routes all routes of the service: those of a resource that is not named here are used as route-resources.ts says
 * @returns the routes that were used, such as `GET /products/:id`
 * @throws Error if an answer is not 2xx
 */
export async function walkTenant(
  send: Send,
  tenant: { readonly id: string; readonly slug: string },
  routes: readonly { readonly method: string; readonly url: string }[] = [],
): Promise<readonly string[]> {
  const used = new Set<string>();

  /** @param url may have `:id`, which `path` replaces */
  async function use<T = Created>(
    method: Method,
    url: string,
    options: Parameters<Send>[2] & { readonly path?: string; readonly query?: string },
  ): Promise<Answer<T>> {
    const { path, query, ...rest } = options;
    used.add(`${method} ${url}`);
    const answer = await send<T>(method, `${url.replace(':id', path ?? '')}${query ?? ''}`, rest);
    if (answer.status >= 300) throw new Error(`${method} ${url} answered ${answer.status}: ${answer.text}`);
    return answer;
  }

  async function signIn(email: string, password: string): Promise<SignedIn> {
    const body = { tenant: tenant.slug, email, password };
    return (await use<SignedIn>('POST', '/auth/login', { body })).body;
  }

  /** Every sort and direction of a list, and the page after the first. */
  async function list(url: string, sorts: readonly string[], filters: readonly string[]): Promise<void> {
    for (const sort of sorts.flatMap((name) => [name, `-${name}`])) {
      const first = await use<{ nextCursor: string | null }>('GET', url, { token, query: `?limit=1&sort=${sort}` });
      const { nextCursor } = first.body;
      if (nextCursor === null) continue;
      await use('GET', url, { token, query: `?limit=1&sort=${sort}&cursor=${encodeURIComponent(nextCursor)}` });
    }
    for (const filter of filters) await use('GET', url, { token, query: `?${filter}` });
  }

  /** Makes one of the resource, uses its other routes on it, and removes it last. */
  async function useResource(prefix: string): Promise<void> {
    const { make, bodies = {} } = resources[prefix] ?? {};
    const own = routes.filter(({ method, url }) => `${url}/`.startsWith(`${prefix}/`) && !used.has(`${method} ${url}`));
    if (!make || own.length === 0) return;
    const { body } = await use('POST', prefix, { token, body: make('walker') });
    const last = (method: string): number => Number(method === 'DELETE');
    for (const { method, url } of own.toSorted((a, b) => last(a.method) - last(b.method))) {
      if (used.has(`${method} ${url}`)) continue;
      const sent = bodies[`${method} ${url.slice(prefix.length) || '/'}`];
      await use(method as Method, url, { token, path: body.id, ...(sent && { body: sent }) });
    }
  }

  const first = await signIn(ADMIN.email, ADMIN.password);
  const wrong = { tenant: tenant.slug, email: ADMIN.email, password: 'not-the-password-1' };
  const refused = await send('POST', '/auth/login', { body: wrong });
  if (refused.status !== 401) throw new Error(`a wrong password was answered with ${refused.status}`);
  const { accessToken: token } = (
    await use<SignedIn>('POST', '/auth/refresh', { body: { refreshToken: first.refreshToken } })
  ).body;
  await use('GET', '/auth/me', { token });

  const widget = {
    name: 'Widget',
    description: 'Blue',
    price: '9.50',
    stockQuantity: 5,
    sku: 'W-1',
    category: 'parts',
  };
  const { body: product } = await use('POST', '/products', { token, body: widget });
  const { body: gone } = await use('POST', '/products', { token, body: { name: 'Gadget', price: '1.00' } });
  await use('GET', '/products/:id', { token, path: product.id });
  const changes = { name: 'Widget 2', description: null, price: '8.00', stockQuantity: 7, sku: 'W-2', category: null };
  await use('PATCH', '/products/:id', { token, path: product.id, body: { ...changes, active: true } });
  await use('POST', '/products/:id/stock', { token, path: product.id, body: { delta: -2 } });
  await list(
    '/products',
    ['createdAt', 'updatedAt', 'name', 'price', 'stockQuantity'],
    ['search=widget', 'active=true', 'category=parts', 'minPrice=1.00&maxPrice=10.00', 'maxStock=10'],
  );
  for (const { id } of [gone, product]) await use('DELETE', '/products/:id', { token, path: id });

  const clerk = { name: 'clerk', description: 'Sells', permissions: ['products:read'] };
  const { body: role } = await use('POST', '/roles', { token, body: clerk });
  await use('GET', '/roles/:id', { token, path: role.id });
  const more = { name: 'seller', description: null, permissions: ['products:read', 'products:write'] };
  await use('PATCH', '/roles/:id', { token, path: role.id, body: more });
  await list('/roles', ['createdAt', 'name'], ['search=seller']);

  const person = { email: 'walker@example.com', firstName: 'Wanda', lastName: 'Walker', password: PASSWORD };
  const { body: user } = await use('POST', '/users', { token, body: { ...person, roles: ['seller', 'member'] } });
  await use('GET', '/users/:id', { token, path: user.id });
  const names = { email: 'wanda@example.com', firstName: 'W.', lastName: 'W.', roles: ['seller'], active: true };
  await use('PATCH', '/users/:id', { token, path: user.id, body: { ...names, password: PASSWORD } });
  await list('/users', ['createdAt', 'email'], ['search=wanda', 'active=true', 'role=seller']);

  // The user's own sessions: one is ended, all others end with the change of the password, and then the last one.
  const own = await signIn(names.email, PASSWORD);
  await signIn(names.email, PASSWORD);
  const sessions = await use<{ data: { id: string; current: boolean }[] }>('GET', '/auth/sessions', {
    token: own.accessToken,
  });
  const other = sessions.body.data.find(({ current }) => !current);
  await use('DELETE', '/auth/sessions/:id', { token: own.accessToken, path: other?.id ?? 'none' });
  await use('GET', '/products', { token: own.accessToken });
  const passwords = { currentPassword: PASSWORD, newPassword: `${PASSWORD}-2` };
  await use('POST', '/auth/confirm', { token: own.accessToken, body: { password: PASSWORD } });
  await use('POST', '/auth/password', { token: own.accessToken, body: passwords });
  await use('POST', '/auth/logout', { token: own.accessToken });
  const last = await signIn(names.email, passwords.newPassword);
  await use('POST', '/auth/logout-all', { token: last.accessToken });
  await use('DELETE', '/users/:id', { token, path: user.id });
  await use('DELETE', '/roles/:id', { token, path: role.id });

  for (const prefix of Object.keys(resources)) await useResource(prefix);

  await list('/audit', [], ['limit=1', 'action=user.created', `target=${user.id}&from=2026-01-01T00:00:00Z`]);
  const audit = await use<{ nextCursor: string | null }>('GET', '/audit', { token, query: '?limit=1' });
  await use('GET', '/audit', { token, query: `?limit=1&cursor=${encodeURIComponent(audit.body.nextCursor ?? '')}` });
  await use('GET', '/tenants/:id/audit', { token, path: tenant.id });
  await use('GET', '/tenants/:id/usage', { token, path: tenant.id });
  await use('GET', '/tenants/:id', { token, path: tenant.id });
  await use('PATCH', '/tenants/:id', { token, path: tenant.id, body: { name: 'Walked' } });
  return [...used].sort();
}

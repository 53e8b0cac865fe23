// The first page of a tenant's products, with a cursor for the next.
import { overHttp } from './http.js';

export const list = overHttp({
  name: 'list',
  what: 'GET /products?limit=20',
  ask: () => ({ method: 'GET', path: '/products?limit=20' }),
});

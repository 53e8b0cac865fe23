// One product by its id.
import { pick } from '../figures/random.js';
import { overHttp } from './http.js';

export const read = overHttp({
  name: 'read',
  what: 'GET /products/:id',
  ask: ({ productIds }, random) => ({ method: 'GET', path: `/products/${pick(productIds, random)}` }),
});

// A new product.
import type { SeededTenant } from '../stage/seed.js';
import type { Pair } from '../stage/pair.js';
import { overHttp, send, type Ask } from './http.js';

export const create = overHttp({
  name: 'create',
  what: 'POST /products',
  ask: (_tenant, random) => ({
    method: 'POST',
    path: '/products',
    body: JSON.stringify({
      name: `Product ${Math.floor(random() * 1e9)}`,
      description: 'Made by the benchmark, with a description as long as one that somebody typed.',
      price: (random() * 2_000).toFixed(2),
      stockQuantity: Math.floor(random() * 500),
      category: `category-${Math.floor(random() * 10)}`,
    }),
  }),
  check,
});

/**
 * Two new products differ in id and times. So the answers must be the same except for those. Each answer must also equal, byte for
 * byte, what the other side reads under the new id.
 *
 * @throws Error if an answer differs
 */
async function check(pair: Pair, tenant: SeededTenant, ask: Ask): Promise<void> {
  const masked: string[] = [];
  for (const [side, other] of [
    ['service', 'floor'],
    ['floor', 'service'],
  ] as const) {
    const made = await send(pair, side, tenant, ask);
    const text = made.body.toString();
    if (made.status !== 201) throw new Error(`the ${side} answers POST /products with ${made.status}: ${text}`);
    const { id, createdAt, updatedAt } = JSON.parse(text) as { id: string; createdAt: string; updatedAt: string };
    const { body } = await send(pair, other, tenant, { method: 'GET', path: `/products/${id}` });
    if (!body.equals(made.body)) throw new Error(`the ${side} made ${text}\nand the ${other} reads ${body.toString()}`);
    masked.push([id, createdAt, updatedAt].reduce((masking, value) => masking.replaceAll(value, '…'), text));
  }
  if (masked[0] !== masked[1])
    throw new Error(`service and floor do not answer the same to POST /products:\n  ${masked.join('\n  ')}`);
}

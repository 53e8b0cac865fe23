// Products of the caller's tenant.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { violatedUniqueConstraint } from '../../db/driver/database-fault.js';
import {
  changeStock,
  deleteProduct,
  findProduct,
  insertProduct,
  listProducts,
  productSorts,
  SKU_CONSTRAINT,
  updateProduct,
} from '../../db/tenant/product-queries.js';
import { AppError } from '../../src/errors.js';
import { demandVersion } from '../../src/http/row-versions.js';
import { insertWithin } from '../../src/tenants/tenant-limits.js';
import { listQuery, pageOf, readPage } from '../shapes/lists.js';
import { answerId, count, flag, idParams, money, patchOf, stock, text, timestamp, whole } from '../shapes/fields.js';

const ProductAnswer = z
  .object({
    id: answerId,
    name: z.string(),
    description: z.string().nullable(),
    price: z.string().meta({ description: 'A decimal number with two places, as text.' }),
    stockQuantity: whole,
    active: z.boolean(),
    sku: z.string().nullable(),
    category: z.string().nullable(),
    createdAt: timestamp,
    updatedAt: timestamp,
  })
  .meta({ id: 'Product' });

const name = text(200);
const optional = {
  description: text(5_000).nullable(),
  stockQuantity: stock,
  active: z.boolean(),
  sku: text(100).nullable(),
  category: text(100).nullable(),
};

const CreateBody = z.strictObject({ name, price: money, ...z.object(optional).partial().shape }).meta({
  id: 'CreateProduct',
  examples: [{ name: 'Grapnel', price: '1299.99', stockQuantity: 3, sku: 'GR-1', category: 'gadgets' }],
});
const PatchBody = patchOf({ name, price: money, ...optional }, {}).meta({
  id: 'UpdateProduct',
  examples: [{ price: '1199.00', description: 'With 60 metres of rope' }],
});
const StockBody = z
  .strictObject({
    delta: z
      .number()
      .min(-2_147_483_648)
      .max(2_147_483_647)
      .int()
      .refine((delta) => delta !== 0, 'must not be 0')
      .meta({ description: 'The number to add to the stock; a negative number is subtracted.' }),
  })
  .meta({ id: 'AdjustStock', examples: [{ delta: -2 }] });

const Query = listQuery(productSorts, {
  search: text(200).optional().meta({ description: 'Text to find in the name or description.' }),
  active: flag.optional(),
  category: text(100).optional(),
  minPrice: money.optional(),
  maxPrice: money.optional(),
  maxStock: count.optional(),
});

export async function productRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const reading = { access: { scope: 'tenant', permission: 'products:read' }, cached: 'products' } as const;
  const writing = { access: { scope: 'tenant', permission: 'products:write' }, changes: 'products' } as const;
  const writingOne = { ...writing, answersRow: true } as const;
  const schema = { tags: ['products'] };
  app.describeTag('products', "Products of the caller's tenant.");

  app.get(
    '/',
    {
      config: { ...reading, errors: ['invalid-cursor'] },
      schema: {
        ...schema,
        operationId: 'listProducts',
        summary: 'List products',
        querystring: Query,
        response: { 200: pageOf(ProductAnswer) },
      },
    },
    async (request) =>
      readPage(app.engine.cursors, [request.tenantId, 'products'], request.query, (query) =>
        listProducts(request.tenantDb, query),
      ),
  );

  app.post(
    '/',
    {
      config: { ...writing, errors: ['sku-taken'] },
      schema: {
        ...schema,
        operationId: 'createProduct',
        summary: 'Create a product',
        body: CreateBody,
        response: { 201: ProductAnswer },
      },
    },
    async (request, reply) => {
      const { tenantDb, tenantLimits, body } = request;
      const product = await skuTaken(
        insertWithin(tenantDb, 'products', tenantLimits.products, (db) => insertProduct(db, body)),
      );
      return reply.code(201).header('location', `${app.prefix}/${product.id}`).send(product);
    },
  );

  app.get(
    '/:id',
    {
      config: reading,
      schema: {
        ...schema,
        operationId: 'getProduct',
        summary: 'Read a product',
        params: idParams,
        response: { 200: ProductAnswer },
      },
    },
    async (request) => found(await findProduct(request.tenantDb, request.params.id)),
  );

  app.patch(
    '/:id',
    {
      config: { ...writingOne, errors: ['sku-taken', 'precondition-failed'] },
      schema: {
        ...schema,
        operationId: 'updateProduct',
        summary: 'Change a product',
        params: idParams,
        body: PatchBody,
        response: { 200: ProductAnswer },
      },
    },
    async (request) => {
      const { tenantDb, params, body, ifMatch } = request;
      return (await skuTaken(updateProduct(tenantDb, params.id, body, ifMatch))) ?? missed(request, params.id);
    },
  );

  app.delete(
    '/:id',
    {
      config: { ...writing, errors: ['precondition-failed'] },
      schema: {
        ...schema,
        operationId: 'deleteProduct',
        summary: 'Remove a product',
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const { tenantDb, params, ifMatch } = request;
      if (!(await deleteProduct(tenantDb, params.id, ifMatch))) await missed(request, params.id);
      return reply.code(204).send(null);
    },
  );

  app.post(
    '/:id/stock',
    {
      config: { ...writingOne, errors: ['insufficient-stock', 'precondition-failed'] },
      schema: {
        ...schema,
        operationId: 'adjustProductStock',
        summary: 'Add to the stock, or subtract from it',
        params: idParams,
        body: StockBody,
        response: { 200: ProductAnswer },
      },
    },
    async (request) => {
      const { tenantDb, params, body, ifMatch } = request;
      const changed = await changeStock(tenantDb, params.id, body.delta, ifMatch);
      if (changed) return changed;
      const product = found(await findProduct(tenantDb, params.id));
      demandVersion(product, ifMatch);
      throw new AppError('insufficient-stock', {
        detail: `The stock is ${product.stockQuantity}. Send a delta that keeps it between 0 and 2147483647.`,
      });
    },
  );
}

function found<T>(product: T | undefined): T {
  if (product === undefined) throw new AppError('not-found');
  return product;
}

/** Refuses a change that found no product: none has the id, or the product has another version than the request demands. */
async function missed({ tenantDb, ifMatch }: FastifyRequest, id: string): Promise<never> {
  const exists = ifMatch !== undefined && (await findProduct(tenantDb, id)) !== undefined;
  throw new AppError(exists ? 'precondition-failed' : 'not-found');
}

async function skuTaken<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (violatedUniqueConstraint(error) === SKU_CONSTRAINT) throw new AppError('sku-taken');
    throw error;
  }
}

// Queries on a tenant's products.
import { sql, type Kysely } from 'kysely';
import { filteredPages } from '../shared/filtered-pages.js';
import { newId } from '../shared/ids.js';
import { containsPattern, positionIn, unfilteredAfter, type Keyset, type Position } from '../shared/keyset.js';
import { hasVersion, rowVersion, type ExpectedVersions, type Versioned } from '../shared/row-version.js';
import { shortRead, statement } from '../driver/statement.js';
import type { TenantDatabase } from './tenant-schema.js';

export interface Product {
  readonly id: string;
  readonly name: string;
  readonly description: string | null;
  /** Decimal text with two places. */
  readonly price: string;
  readonly stockQuantity: number;
  readonly active: boolean;
  readonly sku: string | null;
  readonly category: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
}

const columns = [
  'id',
  'name',
  'description',
  'price',
  'stock_quantity as stockQuantity',
  'active',
  'sku',
  'category',
  'created_at as createdAt',
  'updated_at as updatedAt',
] as const;

const withVersion = [...columns, rowVersion('products')] as const;

/** The sorts that the list of products offers. */
export const productSorts = {
  createdAt: { column: 'created_at', type: 'timestamptz' },
  updatedAt: { column: 'updated_at', type: 'timestamptz' },
  name: { column: 'name', type: 'text' },
  price: { column: 'price', type: 'numeric' },
  stockQuantity: { column: 'stock_quantity', type: 'integer' },
} as const satisfies Record<string, Pick<Keyset<TenantDatabase, 'products'>, 'column' | 'type'>>;

/** The unique constraint that a SKU breaks if it is taken. */
export const SKU_CONSTRAINT = 'products_sku_key';

const productById = shortRead((db: Kysely<TenantDatabase>, { id }: { id: string }) =>
  db.selectFrom('products').select(withVersion).where('id', '=', id),
);

export async function findProduct(db: Kysely<TenantDatabase>, id: string): Promise<(Product & Versioned) | undefined> {
  const [product] = await productById(db, { id });
  return product;
}

interface ProductFilters {
  active?: boolean | undefined;
  category?: string | undefined;
  minPrice?: string | undefined;
  maxPrice?: string | undefined;
  maxStock?: number | undefined;
}

interface ProductOrder {
  sort: keyof typeof productSorts;
  direction: 'asc' | 'desc';
}

/** Without filters a page reads only its rows of an index. */
const firstOrNextPage = shortRead(
  (
    db: Kysely<TenantDatabase>,
    { limit, value, id }: { limit: number; value?: string | undefined; id?: string | undefined },
    { sort, direction }: ProductOrder,
  ) => {
    const after: Position | undefined = value !== undefined && id !== undefined ? [value, id] : undefined;
    const keyset = { ...productSorts[sort], id: 'id' as const, direction };
    return unfilteredAfter(db.selectFrom('products').select(columns), keyset, after, limit);
  },
);

const filteredPage = filteredPages<TenantDatabase, ProductFilters & { pattern?: string | undefined }, Product>({
  table: 'products',
  columns,
  reads: columns.map((column) => column.split(' ')[0] ?? ''),
  matches: ({ active, category, minPrice, maxPrice, maxStock, pattern }) => [
    active !== undefined && ['active', sql`active = ${active}`],
    category !== undefined && ['category', sql`category = ${category}`],
    minPrice !== undefined && ['price', sql`price >= ${minPrice}`],
    maxPrice !== undefined && ['price', sql`price <= ${maxPrice}`],
    maxStock !== undefined && ['stock_quantity', sql`stock_quantity <= ${maxStock}`],
    pattern !== undefined && [undefined, sql`(name ilike ${pattern} or description ilike ${pattern})`],
  ],
  leads: { created_at: ['category', 'active'] },
});

/** One page of products; `search` matches the name and the description, ignoring case. The price bounds are inclusive. */
export async function listProducts(
  db: Kysely<TenantDatabase>,
  page: ProductFilters & ProductOrder & { after?: Position | undefined; limit: number; search?: string | undefined },
): Promise<Product[]> {
  const { active, category, minPrice, maxPrice, maxStock, search, limit, sort, direction, after } = page;
  const pattern = search === undefined ? undefined : containsPattern(search);
  const filters = { active, category, minPrice, maxPrice, maxStock, pattern };
  const order = { ...productSorts[sort], direction };
  if (Object.values(filters).some((filter) => filter !== undefined))
    return filteredPage(db, filters, order, { after, limit });
  const [value, id] = positionIn(order, after) ?? [];
  return firstOrNextPage(db, { value, id, limit }, { sort, direction });
}

/** The columns that a client may write. */
export interface ProductInput {
  readonly name: string;
  readonly description?: string | null | undefined;
  readonly price: string;
  readonly stockQuantity?: number | undefined;
  readonly active?: boolean | undefined;
  readonly sku?: string | null | undefined;
  readonly category?: string | null | undefined;
}

const productInsert = statement((db: Kysely<TenantDatabase>, product: ProductInput & { readonly id: string }) =>
  db
    .insertInto('products')
    .values({ id: product.id, name: product.name, price: product.price, ...written(product) })
    .returning(withVersion),
);

export async function insertProduct(db: Kysely<TenantDatabase>, product: ProductInput): Promise<Product & Versioned> {
  const [inserted] = await productInsert(db, { ...product, id: newId() });
  if (!inserted) throw new Error('INSERT … RETURNING answered no row');
  return inserted;
}

/** Changes the given fields. Undefined if no product has the id and one of the expected versions. */
export async function updateProduct(
  db: Kysely<TenantDatabase>,
  id: string,
  changes: { readonly [K in keyof ProductInput]?: ProductInput[K] | undefined },
  expected?: ExpectedVersions,
): Promise<(Product & Versioned) | undefined> {
  return db
    .updateTable('products')
    .set({ ...written(changes), updated_at: sql<string>`now()` })
    .where('id', '=', id)
    .where(hasVersion('products', expected))
    .returning(withVersion)
    .executeTakeFirst();
}

/**
 * Adds `delta` to the stock in one statement, so that no concurrent change is lost. Undefined if no product has the id and one of
 * the expected versions, or if the stock would leave 0 to 2,147,483,647.
 */
export async function changeStock(
  db: Kysely<TenantDatabase>,
  id: string,
  delta: number,
  expected?: ExpectedVersions,
): Promise<(Product & Versioned) | undefined> {
  // bigint: the sum of two integers can overflow before it is compared.
  const sum = sql<number>`stock_quantity::bigint + ${delta}::bigint`;
  return db
    .updateTable('products')
    .set({ stock_quantity: sum, updated_at: sql<string>`now()` })
    .where('id', '=', id)
    .where(sum, '>=', 0)
    .where(sum, '<=', 2_147_483_647)
    .where(hasVersion('products', expected))
    .returning(withVersion)
    .executeTakeFirst();
}

/** Removes a product. Returns whether there was one with the id and one of the expected versions. */
export async function deleteProduct(
  db: Kysely<TenantDatabase>,
  id: string,
  expected?: ExpectedVersions,
): Promise<boolean> {
  const deleted = await db
    .deleteFrom('products')
    .where('id', '=', id)
    .where(hasVersion('products', expected))
    .returning('id')
    .executeTakeFirst();
  return deleted !== undefined;
}

/** The given fields, by column name. A field that is undefined keeps its default or its value. */
function written(product: { readonly [K in keyof ProductInput]?: ProductInput[K] | undefined }): {
  name?: string;
  description?: string | null;
  price?: string;
  stock_quantity?: number;
  active?: boolean;
  sku?: string | null;
  category?: string | null;
} {
  const { name, description, price, stockQuantity, active, sku, category } = product;
  return {
    ...(name !== undefined && { name }),
    ...(description !== undefined && { description }),
    ...(price !== undefined && { price }),
    ...(stockQuantity !== undefined && { stock_quantity: stockQuantity }),
    ...(active !== undefined && { active }),
    ...(sku !== undefined && { sku }),
    ...(category !== undefined && { category }),
  };
}

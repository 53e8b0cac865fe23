// The floor: the smallest Node program that gives the service's answers from the same databases. No framework, authentication,
// checks or log: only node:http, one pg pool per tenant and one named statement per route. The difference between the floor and
// the service is the cost of everything else.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import pg from 'pg';
import { v7 } from 'uuid';
import { createCursors, type Cursors } from '../../src/http/cursors.js';
import type { FloorJob, FloorReady } from './messages.js';

process.once('message', (job: FloorJob) => {
  serve(job);
});
process.once('disconnect', () => process.exit(0));

const COLUMNS = `id, name, description, price, stock_quantity as "stockQuantity", active, sku, category,
  created_at as "createdAt", updated_at as "updatedAt"`;

const READ = { name: 'read', text: `select ${COLUMNS} from products where id = $1` };

const PAGE = 20;
const LIST = {
  name: 'list',
  text: `select ${COLUMNS} from products order by created_at desc, id desc limit ${PAGE + 1}`,
};

const CREATE = {
  name: 'create',
  text: `insert into products (id, name, description, price, stock_quantity, category) values ($1, $2, $3, $4, $5, $6)
    returning ${COLUMNS}`,
};

interface Tenant {
  readonly id: string;
  readonly pool: pg.Pool;
}

interface ProductRow {
  readonly id: string;
  readonly createdAt: Date;
}

function serve({ server, tenants: given, poolMax, cursorSecret }: FloorJob): void {
  const tenants = new Map<string, Tenant>(
    given.map(({ id, database }) => {
      const pool = new pg.Pool({ ...server, database, max: poolMax, idleTimeoutMillis: 30_000 });
      pool.on('error', fail);
      return [id, { id, pool }];
    }),
  );
  // The only code of the service here: a next cursor is signed, and only the service's code makes the same bytes.
  const cursors = createCursors([Buffer.from(cursorSecret, 'base64')]);

  const http = createServer((request, response) => {
    const tenant = tenants.get(request.headers['x-tenant'] as string);
    if (tenant) answer(tenant, cursors, request, response).catch(fail);
    else send(response, 404, '{}');
  });
  http.listen(0, '127.0.0.1', () => {
    const ready: FloorReady = { port: (http.address() as AddressInfo).port };
    process.send?.(ready);
  });
}

async function answer(
  { id, pool }: Tenant,
  cursors: Cursors,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { url = '' } = request;
  if (request.method === 'POST') {
    const body = JSON.parse(await textOf(request)) as Record<string, unknown>;
    const { name, description, price, stockQuantity, category } = body;
    const values = [v7(), name, description, price, stockQuantity, category];
    const { rows } = await pool.query({ ...CREATE, values });
    send(response, 201, JSON.stringify(rows[0]));
  } else if (url.startsWith('/products/')) {
    const { rows } = await pool.query({ ...READ, values: [url.slice('/products/'.length)] });
    send(response, rows.length === 1 ? 200 : 404, JSON.stringify(rows[0] ?? {}));
  } else {
    const { rows } = await pool.query<ProductRow>(LIST);
    const data = rows.slice(0, PAGE);
    const last = data.at(-1);
    const nextCursor =
      last && rows.length > PAGE
        ? cursors.encode([last.createdAt.toISOString(), last.id], [id, 'products', 'desc createdAt', {}])
        : null;
    send(response, 200, JSON.stringify({ data, nextCursor }));
  }
}

function textOf(request: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    request.setEncoding('utf8');
    request.on('data', (part: string) => (text += part));
    request.on('end', () => {
      resolve(text);
    });
    request.on('error', reject);
  });
}

function send(response: ServerResponse, status: number, body: string): void {
  response.writeHead(status, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(body),
  });
  response.end(body);
}

/** An error ends the floor, and with it the benchmark: figures with errors in them are worthless. */
function fail(error: unknown): void {
  process.stderr.write(`the floor failed: ${String(error)}\n`);
  process.exit(1);
}

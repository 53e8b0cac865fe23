// A process that changes tenants by a statement loses the answers to its COMMITs, and goes on: no tenant is changed twice, and none is
// called changed that is not.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, inject, it } from 'vitest';
import type { StatementWish } from '../../src/fleet-statements/statement-wish.js';
import { startServiceIn, type TestService } from '../support/app.js';
import { makeDataDir } from '../support/service-process.js';
import { startStatementProxy, type Statement, type StatementProxy } from '../support/statement-proxy.js';
import { guestsOf, makeTenants, oneProductIn, pricesIn, runStatement } from '../support/statements.js';
import { rowOf } from '../support/tenants.js';

const TEXT = 'update products set price = price + 1';

let service: TestService;
let proxy: StatementProxy;
let data: Awaited<ReturnType<typeof makeDataDir>>;
let ids: Map<string, string>;
let files = 0;

beforeAll(async () => {
  const cluster = inject('cluster');
  data = await makeDataDir();
  proxy = await startStatementProxy(cluster.provisioner);
  const { host, port } = proxy;
  service = await startServiceIn({ ...cluster, provisioner: { ...cluster.provisioner, host, port } });
  ids = await makeTenants(service.app.engine, ['one', 'two', 'three']);
}, 120_000);
afterAll(async () => {
  await service.close();
  await proxy.close();
  await data.remove();
});
beforeEach(async () => {
  proxy.onStatement = () => 'pass';
  for (const id of ids.values()) await oneProductIn(await rowOf(service, { id }));
});

const isCommit = ({ sql: text, application }: Statement): boolean =>
  application.startsWith('tenantry each') && /^commit$/i.test(text.trim());

function wishFor(file: string, resume = false): Partial<StatementWish> {
  return { write: true, selection: { statuses: ['active'], tenants: [...ids.values()] }, file: { path: file, resume } };
}

const newFile = (): string => path.join(data.dir, `run-${(files += 1)}.jsonl`);

async function prices(): Promise<string[]> {
  const found: string[] = [];
  for (const id of ids.values()) found.push(...(await pricesIn(await rowOf(service, { id }))));
  return found;
}

it('asks PostgreSQL what became of each, and reports the change as done', async () => {
  let lost = 0;
  proxy.onStatement = (statement) => {
    if (!isCommit(statement)) return 'pass';
    lost += 1;
    return 'lose';
  };
  const { report } = await runStatement(service.app.engine, TEXT, wishFor(newFile()));
  expect(lost).toBe(3);
  expect(report.totals).toMatchObject({ done: 3, unknown: 0, failed: 0, affected: 3 });
  expect(await prices()).toEqual(['11.00', '11.00', '11.00']);
  expect(await guestsOf(service.app.engine)).toEqual([]);
});

it('reports those as unknown of which PostgreSQL cannot be asked either, and asks when the run is continued', async () => {
  const file = newFile();
  let cut = 0;
  proxy.onStatement = (statement) => {
    if (isCommit(statement)) return 'lose';
    if (!statement.sql.includes('pg_xact_status')) return 'pass';
    cut += 1;
    return 'lose';
  };
  const { report } = await runStatement(service.app.engine, TEXT, wishFor(file));
  expect(cut).toBeGreaterThan(0);
  expect(report.totals).toMatchObject({ done: 0, unknown: 3 });
  expect(await readFile(file, 'utf8')).toContain('"unknown"');
  expect(await prices()).toEqual(['11.00', '11.00', '11.00']);

  proxy.onStatement = () => 'pass';
  const again = await runStatement(service.app.engine, TEXT, wishFor(file, true));
  expect(again.report.totals).toMatchObject({ done: 3, unknown: 0, failed: 0 });
  expect(await prices()).toEqual(['11.00', '11.00', '11.00']);
  expect(await guestsOf(service.app.engine)).toEqual([]);
});

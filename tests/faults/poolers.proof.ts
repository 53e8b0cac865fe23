// PgBouncer 1.24 in front of PostgreSQL, which knows prepared statements in transaction mode. It is built from Debian's source, which
// takes a minute. With PGBOUNCER=FILE that program is tried instead.
import { execFile } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll } from 'vitest';
import { describePooler } from '../support/pooler-matrix.js';

const script = path.resolve(import.meta.dirname, '../../scripts/build-pgbouncer.sh');
let folder: string | undefined;
let program = process.env['PGBOUNCER'] ?? '';

beforeAll(async () => {
  if (program !== '') return;
  folder = await mkdtemp(path.join(tmpdir(), 'tenantry-pgbouncer-'));
  // Under root, PgBouncer runs as another user.
  await chmod(folder, 0o755);
  await promisify(execFile)(script, [folder]);
  program = path.join(folder, 'pgbouncer');
}, 300_000);
afterAll(async () => {
  if (folder !== undefined) await rm(folder, { recursive: true, force: true });
});

describePooler('a pooler of PgBouncer 1.24', () => program);

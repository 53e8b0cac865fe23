// A client whose host is about to vanish: connections that hold locks, one in each possible state of a session.
// Usage: node --import tsx tests/support/vanishing-client.ts <host> <port> <password>
// Writes `held` when all locks are held, and a line for each lost connection that it notices.
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { clientConfig } from '../../db/driver/client.js';

const [host = '', port = '', password = ''] = process.argv.slice(2);

async function connect(state: string): Promise<pg.Client> {
  const place = { host, port: Number(port), user: 'postgres', password, database: 'postgres', tls: false } as const;
  const client = new pg.Client({ ...clientConfig(place), application_name: `vanished ${state}` });
  client.on('error', () => {
    process.stdout.write(`lost ${state}\n`);
  });
  await client.connect();
  return client;
}

const [idle, transaction, running] = await Promise.all([connect('idle'), connect('transaction'), connect('running')]);
await idle.query('select pg_advisory_lock(7001)');
await transaction.query('begin');
await transaction.query('select pg_advisory_xact_lock(7002)');
await running.query('select pg_advisory_lock(7003)');
running.query('select pg_sleep(600)').catch(() => undefined);
// Until the server has acknowledged the statement, the system would send it again for minutes, and keepalives would not run. In the
// service the deadline of the statement ends such a connection.
await sleep(500);
process.stdout.write('held\n');

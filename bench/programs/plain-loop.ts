// What people write without a tool: a loop over the tenants that connects to each database, adds the column and its record in one
// transaction, and disconnects. Several databases at once. It knows nothing of locks, retries, the registry or another process.
import pg from 'pg';
import type { DriverMessage, PlainLoopJob, RolledOut } from './messages.js';

process.once('message', (job: PlainLoopJob) => {
  void run(job);
});
process.once('disconnect', () => process.exit(1));

async function run({ server, databases, atOnce, step }: PlainLoopJob): Promise<void> {
  const column = pg.escapeIdentifier(step);
  const waiting = databases.values();
  let failure: string | undefined;
  const migrate = async (database: string): Promise<void> => {
    const client = new pg.Client({ ...server, database });
    await client.connect();
    try {
      await client.query('begin');
      await client.query(`alter table products add column ${column} text`);
      await client.query('insert into migration.kysely_migration (name, timestamp) values ($1, $2)', [
        step,
        new Date().toISOString(),
      ]);
      await client.query('commit');
    } finally {
      await client.end();
    }
  };
  const work = async (): Promise<void> => {
    for (const database of waiting) await migrate(database);
  };
  tell({ kind: 'begin' });
  const begunAt = performance.now();
  try {
    await Promise.all(Array.from({ length: atOnce }, work));
  } catch (error) {
    failure = `the plain loop failed: ${String(error)}`;
  }
  const ms = performance.now() - begunAt;
  tell({ kind: 'end' });
  const peakMemory = process.resourceUsage().maxRSS / 1_024;
  tell({ kind: 'result', ms, tenants: databases.length, peakMemory, failure });
  process.removeAllListeners('disconnect');
  process.disconnect();
}

function tell(message: DriverMessage<RolledOut>): void {
  process.send?.(message);
}

// Loaded into a process of the service (node --import) that a test kills. SIGUSR2 arms it: it writes `armed` and counts the
// statements about tenants that are sent to the registry and to clusters. It kills the process at the statement number KILL_AT,
// before that statement is sent or right after.
import pg from 'pg';

/** Connections of work on tenants. The statements of leases, events and housekeeping run independently of a request. */
const COUNTED = /^tenantry (registry|provisioning|provisioner|lifecycle)\b/;

const at = Number(process.env['KILL_AT']);
const before = process.env['KILL_WHEN'] === 'before';
let armed = false;
let count = 0;

type Query = (this: pg.Client & { connectionParameters: { application_name?: string } }, ...args: unknown[]) => unknown;
const prototype = pg.Client.prototype as unknown as { query: Query };
const query = prototype.query;

prototype.query = function (...args) {
  if (!armed || !COUNTED.test(this.connectionParameters.application_name ?? '')) return query.apply(this, args);
  count += 1;
  if (count === at && before) process.kill(process.pid, 'SIGKILL');
  const sent = query.apply(this, args);
  // The kernel has what was written: the server gets it, although the process is gone.
  if (count === at) process.kill(process.pid, 'SIGKILL');
  return sent;
};

process.on('SIGUSR2', () => {
  armed = true;
  process.stdout.write('armed\n');
});

// Loaded into a process of the service (node --import) that is to be killed: once armed, by SIGUSR2, it counts the statements
// about tenants that are sent to the registry and to clusters, and kills the process at the one that KILL_AT says, before it
// is sent, or as soon as it is. Writes `armed` when it counts.
import pg from 'pg';

/** Connections of work on tenants; those of leases, events and housekeeping go on by themselves. */
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
  // What was written is with the kernel: the server gets it, and the process is gone.
  if (count === at) process.kill(process.pid, 'SIGKILL');
  return sent;
};

process.on('SIGUSR2', () => {
  armed = true;
  process.stdout.write('armed\n');
});

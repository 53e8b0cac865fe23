// One look at the fleet: whether all is well, and if not, why, in plain words.
import { MAX_CLOCK_SKEW } from '../auth/tokens.js';
import { duration } from '../lib/duration-words.js';
import { PURGE } from '../../db/registry/status-queries.js';
import { actOf } from '../operations/runner/operation-words.js';
import type { FleetState, FleetStatus, ClusterStatus, HereStatus, ReplicasStatus } from './status-types.js';

/** The most reasons that are shown; a last one says how many more there are. */
const MAX_REASONS = 50;

/** A run that takes longer than this (ms) and a pause of its job waits for something that does not answer. */
const LONG_RUN = 15 * 60_000;

type Parts = Omit<FleetStatus, 'state' | 'reasons'>;

export function verdictOn(status: Parts): { state: FleetState; reasons: string[] } {
  const person = [...needsPerson(status)];
  const degraded = [...degradations(status)];
  const all = [...person, ...degraded];
  const more = all.length - MAX_REASONS;
  return {
    state: person.length > 0 ? 'needs-person' : degraded.length > 0 ? 'degraded' : 'ok',
    reasons: more > 0 ? [...all.slice(0, MAX_REASONS), `There are ${more} more reasons.`] : all,
  };
}

function* needsPerson({ work, reports, rollout, passwords }: Parts): Iterable<string> {
  for (const { kind, states, needsPerson: all, oldestFor } of work ?? []) {
    const stopped = states['needs-person'] ?? 0;
    if (stopped > 0) yield `Stopped until a person acts: ${workOf(kind)} (${stopped}).`;
    if (all > stopped)
      yield `Not ended within an hour: ${workOf(kind)} (${all - stopped}); the oldest began ${duration(oldestFor)} ago.`;
  }
  if (reports && reports.counts.evidence > 0)
    yield `${counted(reports.counts.evidence, 'database of a tenant is', 'databases of tenants are')} left as found, because mark and row do not agree.`;
  if (reports && reports.counts.orphan > 0)
    yield `${counted(reports.counts.orphan, 'database or role', 'databases or roles')} may belong to a tenant, and no row names them.`;
  if (rollout?.state === 'stopped')
    yield `The rollout ${rollout.id} has stopped: ${rollout.reason ?? 'the reason is not known'}.`;
  if (passwords && passwords.unreadable > 0)
    yield `${counted(passwords.unreadable, 'database password is', 'database passwords are')} encrypted with a key that the answering replica does not have.`;
}

function* degradations(status: Parts): Iterable<string> {
  const { unreadable, tenants, clusters, replicas, jobs, work, here } = status;
  for (const { part, reason } of unreadable) yield `The part "${part}" could not be read: ${reason}.`;
  yield* ofHere(here);
  if (replicas) yield* ofReplicas(replicas);
  else if (here.notReady !== null) yield `Replica ${here.id} takes no requests: ${here.notReady}.`;
  for (const cluster of clusters ?? []) yield* ofCluster(cluster);
  for (const { kind, late, needsPerson: all } of work ?? [])
    if (late > all) yield `Not ended within ten minutes: ${workOf(kind)} (${late - all}).`;
  for (const { name, failing } of jobs)
    for (const { replicaId, failuresInARow, lastError } of failing)
      yield `The job "${name}" fails on replica ${replicaId}: ${lastError}; ${counted(failuresInARow, 'failure', 'failures')} in a row.`;
  for (const { name, every, running } of jobs)
    for (const { replicaId, runningFor } of running)
      if (runningFor > LONG_RUN + every)
        yield `The job "${name}" has been running on replica ${replicaId} for ${duration(runningFor)}.`;
  if (tenants && tenants.behind > 0)
    yield `${counted(tenants.behind, 'tenant has', 'tenants have')} an older schema than this build: run the migration.`;
  if (tenants && tenants.newer > 0)
    yield `${counted(tenants.newer, 'tenant has', 'tenants have')} a newer schema than the build of the answering replica.`;
}

function* ofHere({ id, feed, redis, breakers }: HereStatus): Iterable<string> {
  if (!feed.live) yield `Replica ${id} does not hear of changes: it asks the databases for what it would remember.`;
  if (redis?.available === false)
    yield `Redis is away for replica ${id}: ${redis.reason ?? 'the reason is not known'}.`;
  if (breakers.tenants > 0)
    yield `Replica ${id} refuses requests of ${counted(breakers.tenants, 'tenant', 'tenants')} whose database fails.`;
}

function* ofReplicas({ list }: ReplicasStatus): Iterable<string> {
  for (const { id, host, alive, silentFor, notReady, clockSkew } of list) {
    if (!alive)
      yield `Replica ${id} on ${host} has been silent for ${duration(silentFor)}: it was killed, or cannot reach the registry.`;
    else if (notReady !== null) yield `Replica ${id} on ${host} takes no requests: ${notReady}.`;
    if (alive && clockSkew !== null && Math.abs(clockSkew) > MAX_CLOCK_SKEW)
      yield `The clock of replica ${id} on ${host} is ${duration(Math.abs(clockSkew))} ${clockSkew > 0 ? 'ahead of' : 'behind'} the registry's.`;
  }
}

function* ofCluster(cluster: ClusterStatus): Iterable<string> {
  const { name, answers, unreachable, breaker, budget, leased, wanted, standby } = cluster;
  if (answers === false) yield `The server of cluster "${name}" does not answer: ${unreachable ?? 'unknown'}.`;
  if (breaker !== 'closed')
    yield `The breaker of cluster "${name}" is ${breaker}: requests of its tenants are refused.`;
  if (wanted.tenants > 0 && leased.tenants >= budget.tenants)
    yield `All ${budget.tenants} connections to cluster "${name}" are leased, and ${wanted.tenants} more are wanted.`;
  if (standby.wanted > 0 && standby.ready === 0)
    yield `Cluster "${name}" has no standby database ready; ${standby.wanted} are wanted.`;
}

function workOf(kind: string): string {
  return kind === PURGE ? 'purging a deleted tenant' : actOf(kind);
}

function counted(count: number, one: string, many: string): string {
  return `${count} ${count === 1 ? one : many}`;
}

// Decides whether a PostgreSQL server can hold tenants. It inspects the server with connections of its own, lists the problems,
// and makes the template on a server that is fit.
import { inspectCluster, type ClusterInspection } from '../../db/server/cluster-inspection.js';
import type { ConnectionSettings, PoolLimits } from '../../db/driver/client.js';
import type { Destinations } from '../../db/driver/destinations.js';
import { DatabaseFault, pooledAdvice } from '../../db/driver/database-fault.js';
import { AppError } from '../errors.js';
import { within } from '../lib/deadline.js';
import type { ClusterBudget } from '../connections/governors.js';
import { openProvisioner, type Provisioner } from '../clusters/provisioner-connections.js';
import { roomWarning, searchWarnings } from '../clusters/server-room.js';
import { LostOperation } from './runner/operation-kinds.js';
import type { OperationTimes } from './runner/operation-times.js';
import { findTemplateProblem } from './template/copying-template.js';
import type { TemplateMaker, TemplateSite } from './template/template-maker.js';

/** What an inspection of a server found. */
export interface ClusterFindings {
  /** The problems that keep the server from holding tenants, in sentences; empty if it can hold them. */
  readonly problems: readonly string[];
  /** Problems that should be corrected too, but do not keep the server from holding tenants. */
  readonly warnings: readonly string[];
  /** Undefined if the service could not connect. */
  readonly inspection: ClusterInspection | undefined;
}

export interface ClusterFitness {
  /** Inspects a server. @param budget connections that the service may open there */
  inspect(connection: ConnectionSettings, budget: ClusterBudget): Promise<ClusterFindings>;
  /**
   * Inspects a server and makes the template on it.
   *
   * @returns warnings
   * @throws AppError `cluster-unusable`, also if that takes too long
   */
  prepare(connection: ConnectionSettings, budget: ClusterBudget, site: TemplateSite): Promise<readonly string[]>;
}

/** The oldest PostgreSQL version that is tested, as `server_version_num`. */
const OLDEST_VERSION = 150_000;

/** Largest difference (ms) between the clocks: the same difference that tokens tolerate. */
const MAX_CLOCK_SKEW = 5_000;

/** Longest wait (ms) for a connection to the server. */
const LOOK_DEADLINE = 5_000;

export function createClusterFitness(deps: {
  readonly templates: TemplateMaker;
  /** The limits of a provisioner's pool; only the statement timeout is used here. */
  readonly limits: PoolLimits;
  readonly destinations: Destinations;
  readonly times: Pick<OperationTimes, 'prepareDeadline'>;
}): ClusterFitness {
  /** Uses connections outside the budget: the server may not be a cluster yet, or its budget may have no free connection. */
  async function entering<T>(connection: ConnectionSettings, work: (opened: Provisioner) => Promise<T>): Promise<T> {
    const limits = { ...deps.limits, max: 1, acquireTimeout: LOOK_DEADLINE };
    const opened = openProvisioner(connection, limits, { destinations: deps.destinations, anyServer: true });
    try {
      return await work(opened);
    } finally {
      await opened.close();
    }
  }

  return {
    inspect: (connection, budget) =>
      entering(connection, async (opened) => {
        const findings = await look(opened, budget);
        const template = findings.inspection && (await findTemplateProblem(opened.cluster, connection.user));
        return template === undefined
          ? findings
          : { ...findings, problems: [...findings.problems, asSentence(template)] };
      }),

    prepare(connection, budget, site) {
      const prepared = entering(connection, async (opened) => {
        const { problems, warnings } = await look(opened, budget);
        if (problems.length > 0) throw new AppError('cluster-unusable', { detail: problems.join(' ') });
        try {
          await deps.templates.ensure({ ...opened, role: connection.user }, site, deps.times.prepareDeadline);
        } catch (error) {
          throw withoutTemplate(error);
        }
        return warnings;
      });
      // The attempt that runs then goes on, with its connections, and makes the template or leaves none.
      const late = (): Error => withoutTemplate(new DatabaseFault('timeout', 'not prepared in time'));
      return within(prepared, deps.times.prepareDeadline, late);
    },
  };
}

function asSentence(part: string): string {
  return `${part.charAt(0).toUpperCase()}${part.slice(1)}.`;
}

function withoutTemplate(cause: unknown): AppError {
  // What got no answer may still be done, by this replica or another one. Then the next request finds the template.
  if (cause instanceof LostOperation || (cause instanceof DatabaseFault && !cause.answered))
    return new AppError('unavailable', {
      detail: 'The template database is not made on the server yet. Send the request again in a moment.',
      retryAfter: 10,
      cause,
    });
  return new AppError('cluster-unusable', {
    detail: 'The template database could not be created on the server.',
    cause,
  });
}

/**
 * The problems and warnings that an inspection shows for a server that is to hold tenants.
 *
 * @param budget connections that the service may open there
 */
export function judgeCluster(
  inspection: ClusterInspection,
  budget: ClusterBudget,
): Pick<ClusterFindings, 'problems' | 'warnings'> {
  const { role, superuser, canProvision, openDatabases, versionNumber, version, readOnly, clockSkew, otherCollations } =
    inspection;
  const problems = [
    versionNumber < OLDEST_VERSION && `PostgreSQL 15 or later is needed; this is ${version}.`,
    superuser && `The role "${role}" is a superuser: use one that is not (deploy/bootstrap.sql).`,
    !canProvision && `The role "${role}" needs CREATEDB and CREATEROLE.`,
    readOnly && 'The server does not accept writes: it is a standby, or read-only.',
    Math.abs(clockSkew) > MAX_CLOCK_SKEW &&
      `The server's clock is ${Math.round(clockSkew / 1_000)} s off. Synchronise both clocks by NTP.`,
  ];
  const warnings = [
    roomWarning(inspection, budget),
    openDatabases.length > 0 &&
      `Every role of the server may connect to ${openDatabases.join(', ')}. Run REVOKE ALL ON DATABASE … FROM PUBLIC.`,
    otherCollations > 0 &&
      `The collation of the server has another version than that of ${otherCollations} of its databases. In each, run REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION.`,
    ...searchWarnings(inspection),
  ];
  const said = (text: string | false | undefined): text is string => typeof text === 'string';
  return { problems: problems.filter(said), warnings: warnings.filter(said) };
}

async function look({ cluster }: Provisioner, budget: ClusterBudget): Promise<ClusterFindings> {
  try {
    const inspection = await inspectCluster(cluster);
    return { ...judgeCluster(inspection, budget), inspection };
  } catch (error) {
    if (!(error instanceof DatabaseFault)) throw error;
    const advice = pooledAdvice(error.reason);
    return {
      problems: [`The service cannot connect to the server (${error.reason})${advice ? `: ${advice}` : ''}.`],
      warnings: [],
      inspection: undefined,
    };
  }
}

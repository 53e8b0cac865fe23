// Rules about variables that only make sense together. They hold in every environment.
import { valueOf, type ParsedVariables } from './parsed-variables.js';

/** Checks pairs and lifetimes. `problems` receives a sentence for each contradiction. */
export function checkConsistency(env: NodeJS.ProcessEnv, values: ParsedVariables, problems: string[]): void {
  if (env['OPERATOR_PASSWORD'] && !env['OPERATOR_EMAIL'])
    problems.push('OPERATOR_PASSWORD is set and OPERATOR_EMAIL is not: set both, or neither');
  const { METRICS_PORT: metricsPort } = values;
  if (metricsPort !== undefined && metricsPort !== 0 && metricsPort === valueOf(values, 'PORT'))
    problems.push('METRICS_PORT is PORT: metrics need a port of their own, which clients cannot reach');
  const idle = valueOf(values, 'SESSION_IDLE_TTL');
  if (idle < valueOf(values, 'ACCESS_TOKEN_TTL'))
    problems.push('SESSION_IDLE_TTL is below ACCESS_TOKEN_TTL: a session would end before its access token');
  if (valueOf(values, 'SESSION_TTL') < idle)
    problems.push('SESSION_TTL is below SESSION_IDLE_TTL: no session could be idle for that long');
}

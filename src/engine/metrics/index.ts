// Every metric of the service: the table from which docs/reference/metrics.md is written, and the registration of the readings.
import { eventMetrics } from '../../observability/instruments.js';
import { LOG_LINES_TOTAL } from '../../observability/log-lines.js';
import type { MetricDefinition, Metrics } from '../../observability/metrics.js';
import { SECURITY_EVENTS_TOTAL } from '../../observability/security-events.js';
import { connectionReadings } from './connection-readings.js';
import { fleetReadings } from './fleet-readings.js';
import type { ReadRooms, Reading } from './reading-types.js';
import { replicaReadings } from './replica-readings.js';
import { requestReadings } from './request-readings.js';

const readings: readonly Reading[] = [...requestReadings, ...connectionReadings, ...replicaReadings, ...fleetReadings];

/** In the order of their names. The metrics of Node.js itself, which prom-client defines, are not among them. */
export const metricDefinitions: readonly MetricDefinition[] = [
  ...Object.values(eventMetrics),
  SECURITY_EVENTS_TOTAL,
  LOG_LINES_TOTAL,
  ...readings,
].sort((one, other) => (one.name < other.name ? -1 : 1));

export function registerReadings(metrics: Metrics, rooms: ReadRooms): void {
  for (const { read, ...definition } of readings) metrics.reading(definition, () => read(rooms));
}

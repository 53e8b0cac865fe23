// Variables of the metrics: where they are served, and how many tenants they name.
import { z } from 'zod';
import { wholeNumber } from '../parsers/number-parsers.js';
import type { Variable } from './variable-types.js';

export const metricsVariables = {
  METRICS_PORT: {
    schema: wholeNumber(0, 65_535),
    default: '',
    unit: 'port',
    description:
      'The port of `/metrics`, which must not be `PORT`; 0 takes a free one. Empty serves no metrics. Never let clients reach this port.',
  },
  METRICS_HOST: {
    schema: z.string(),
    default: '127.0.0.1',
    unit: 'address',
    description: 'The address to serve metrics on.',
  },
  METRICS_TENANTS: {
    schema: wholeNumber(0, 200),
    default: '20',
    unit: 'tenants',
    description: 'How many of the busiest tenants have metrics of their own. All others together are `other`.',
  },
} as const satisfies Record<string, Variable>;

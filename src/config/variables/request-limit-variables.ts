// Variables of the limits on requests: from one address, and of one user or operator.
import { wholeNumber } from '../parsers/number-parsers.js';
import type { Variable } from './variable-types.js';

export const requestLimitVariables = {
  RATE_LIMIT_MAX: {
    schema: wholeNumber(1, 1_000_000_000),
    default: '1000',
    unit: 'requests a minute',
    description:
      'Requests from one address, IPv6 by /64. All replicas count together, here and in the next sections ([limits.md](limits.md)).',
  },
  USER_RATE_LIMIT_MAX: {
    schema: wholeNumber(1, 1_000_000_000),
    default: '',
    unit: 'requests a minute',
    description: 'Requests of one user or operator, from all addresses together. Not set: RATE_LIMIT_MAX.',
  },
} as const satisfies Record<string, Variable>;

// Variables of the limits on guessing passwords, and on the hashing that password checks cost.
import { wholeNumber } from '../parsers/number-parsers.js';
import type { Variable } from './variable-types.js';

export const signInLimitVariables = {
  SIGN_IN_LIMIT: {
    schema: wholeNumber(1, 1_000_000_000),
    default: '10',
    unit: 'attempts a minute',
    description: 'Sign-in attempts from one address.',
  },
  SIGN_IN_FAILURES_ACCOUNT: {
    schema: wholeNumber(1, 1_000_000_000),
    default: '5',
    unit: 'failures',
    description:
      'Failed sign-ins to one account without a wait. Each further failure doubles the wait, from 1 s to 5 min.',
  },
  SIGN_IN_FAILURES_ADDRESS: {
    schema: wholeNumber(1, 1_000_000_000),
    default: '30',
    unit: 'failures',
    description: 'Failed sign-ins from one address, IPv6 by /64, without a wait.',
  },
  SIGN_IN_FAILURES_TENANT: {
    schema: wholeNumber(1, 1_000_000_000),
    default: '300',
    unit: 'failures',
    description: 'Failed sign-ins within one tenant without a wait.',
  },
  SIGN_IN_FORGET_MS: {
    schema: wholeNumber(1_000, 86_400_000),
    default: '900000',
    unit: 'ms',
    description: 'Failures decay linearly; after this time the full free allowance is back.',
  },
  PASSWORD_BUDGET_ACCOUNT: {
    schema: wholeNumber(1, 1_000_000_000),
    default: '20',
    unit: 'requests in 30 s',
    description:
      'Requests of one account that check or set a password. All of them may come at once. Sign-ins do not count.',
  },
  PASSWORD_BUDGET_TENANT: {
    schema: wholeNumber(1, 1_000_000_000),
    default: '60',
    unit: 'requests in 30 s',
    description:
      'Requests of all users of one tenant that check or set a password. All operators together count as one tenant.',
  },
} as const satisfies Record<string, Variable>;

// Variables of the audit: how long its rows are kept.
import { wholeNumber } from '../parsers/number-parsers.js';
import type { Variable } from './variable-types.js';

export const auditVariables = {
  AUDIT_KEEP_DAYS: {
    schema: wholeNumber(0, 36_500),
    default: '0',
    unit: 'days',
    description:
      'How long rows of the audit are kept ([audit.md](audit.md)); 0 keeps them for ever. In the registry it counts from the next `npm run migrate`.',
  },
} as const satisfies Record<string, Variable>;

// Variables of the HTTP server: its paths, its clients' addresses and origins, its timeouts.
import { z } from 'zod';
import { cidrList, originList } from '../parsers/address-parsers.js';
import { wholeNumber } from '../parsers/number-parsers.js';
import type { Variable } from './variable-types.js';

export const httpVariables = {
  API_PREFIX: {
    schema: z.string().regex(/^(?:\/[a-z0-9-]+)+$/, 'must look like /v1'),
    default: '',
    unit: 'path',
    description: 'Path of the API. Health, docs and the JWK Set stay at the root.',
  },
  TRUST_PROXY: {
    schema: cidrList,
    default: '',
    unit: 'CIDRs',
    description: 'Proxies whose X-Forwarded-For is trusted, separated by commas. Empty trusts none.',
  },
  CORS_ORIGINS: {
    schema: originList,
    default: '',
    unit: 'origins',
    description: 'Origins that browsers may call from, separated by commas. Empty allows none.',
  },
  REQUEST_TIMEOUT_MS: {
    schema: wholeNumber(1_000, 600_000),
    default: '30000',
    unit: 'ms',
    description: 'Longest time for a whole request to arrive.',
  },
  KEEP_ALIVE_TIMEOUT_MS: {
    schema: wholeNumber(0, 600_000),
    default: '72000',
    unit: 'ms',
    description: 'How long an idle connection stays open. Set it longer than the load balancer keeps the connection.',
  },
  MAX_EVENT_LOOP_DELAY_MS: {
    schema: wholeNumber(0, 60_000),
    default: '100',
    unit: 'ms',
    description:
      'Requests are refused with `overloaded` while turns of the event loop take longer than this, one after the other. 0 refuses none.',
  },
} as const satisfies Record<string, Variable>;

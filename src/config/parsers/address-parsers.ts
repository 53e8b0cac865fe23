// Lists of network addresses, host names and origins, separated by commas.
import { z } from 'zod';
import { commaList } from './text-parsers.js';

const cidr = z.union([z.cidrv4(), z.cidrv6(), z.ipv4(), z.ipv6()], 'must be addresses or CIDRs, separated by commas');

const HOST_NAME = /^[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*$/i;

/** Longest host name (RFC 1035, section 2.3.4). */
const MAX_HOST_NAME = 253;

const host = z
  .string()
  .refine(
    (text) => cidr.safeParse(text).success || (text.length <= MAX_HOST_NAME && HOST_NAME.test(text)),
    'must be names, addresses and CIDRs, separated by commas',
  );

const origin = z
  .string()
  .refine(
    (text) => URL.canParse(text) && new URL(text).origin === text,
    'must be origins such as https://app.example.com, separated by commas',
  );

/** IPv4 and IPv6 addresses and CIDRs: `10.0.0.0/8, ::1`. */
export const cidrList = commaList.pipe(z.array(cidr));

/** Host names, addresses and CIDRs, without ports: `db2.internal, 10.0.0.0/8`. */
export const hostList = commaList.pipe(z.array(host));

/** Origins (RFC 6454) exactly as a browser sends them: `https://app.example.com`, without a path or a slash at the end. */
export const originList = commaList.pipe(z.array(origin));

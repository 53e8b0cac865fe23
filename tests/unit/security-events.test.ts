// src/observability/security-events.ts: each event is counted and marked, and a flood of events is no flood of lines.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { AppError } from '../../src/errors.js';
import { faultsOf, logFields } from '../../src/observability/log-fields.js';
import { createLogger } from '../../src/observability/logger.js';
import { createMetrics } from '../../src/observability/metrics.js';
import { securityEvents, type SecurityEventName } from '../../src/observability/security-catalogue.js';
import {
  BURST,
  createSecurityEvents,
  LINES_PER_SECOND,
  ONE_WINDOW,
  refusalEvent,
  type SecurityEvents,
} from '../../src/observability/security-events.js';
import { parseExposition } from '../support/exposition.js';

const names = Object.keys(securityEvents) as SecurityEventName[];

interface Bench {
  readonly security: SecurityEvents;
  readonly lines: () => Record<string, unknown>[];
  readonly counted: (event: SecurityEventName) => Promise<number | undefined>;
}

function bench(): Bench {
  const texts: string[] = [];
  const log = createLogger({ level: 'debug', pretty: false }, { write: (text) => void texts.push(text) });
  const metrics = createMetrics((error) => {
    throw error;
  });
  return {
    security: createSecurityEvents({ log, metrics }),
    lines: () => texts.map((text) => JSON.parse(text) as Record<string, unknown>),
    counted: async (event) =>
      parseExposition((await metrics.expose()).body).sum('tenantry_security_events_total', { event }),
  };
}

const from = (address: string): AuditOrigin => ({
  actor: { kind: 'user', id: 'u1' },
  address,
  userAgent: 'a browser',
  requestId: 'r1',
});

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

describe('a security event', () => {
  it('has a marked line with the request, the caller and its own fields, and no other', () => {
    const { security, lines } = bench();
    const origin: AuditOrigin = { ...from('192.0.2.7'), traceId: 'f'.repeat(32) };
    security.record('role-changed', { tenantId: 't1', targetId: 'x1', fields: ['name'] }, origin);
    expect(lines()).toEqual([
      {
        level: 'info',
        time: expect.any(String) as string,
        security: true,
        event: 'role-changed',
        reqId: 'r1',
        traceId: 'f'.repeat(32),
        address: '192.0.2.7',
        userId: 'u1',
        tenantId: 't1',
        targetId: 'x1',
        fields: ['name'],
        msg: securityEvents['role-changed'].description,
      },
    ]);
  });

  it('of an operator names the operator, and an act of the service nobody', () => {
    const { security, lines } = bench();
    security.record('tenant-purged', { tenantId: 't1' }, { actor: { kind: 'operator', id: 'o1', sessionId: 's1' } });
    security.record('tenant-purged', { tenantId: 't1' }, { actor: { kind: 'none' } });
    expect(lines()[0]).toMatchObject({ operatorId: 'o1' });
    for (const key of ['operatorId', 'userId', 'reqId', 'address', 'sessionId'])
      expect(lines()[1]).not.toHaveProperty(key);
    expect(JSON.stringify(lines())).not.toContain('s1');
  });

  it.each(names)('%s is counted, and has its level, and fields that are in the schema', async (event) => {
    const { security, lines, counted } = bench();
    expect(await counted(event)).toBe(0);
    security.record(event, {}, from('192.0.2.7'));
    expect(await counted(event)).toBe(1);
    const { level, description, fields } = securityEvents[event];
    expect(lines()).toMatchObject([{ level, event, msg: description, security: true }]);
    expect(lines().flatMap(faultsOf)).toEqual([]);
    expect(fields.filter((name) => !(name in logFields))).toEqual([]);
  });

  it.each(names)('%s says in a sentence what happened', (event) => {
    expect(securityEvents[event].description).toMatch(/^[a-z].*[^.]$/);
  });
});

describe('a flood of one event', () => {
  it('has a burst of lines, then a few a second, and every event is counted', async () => {
    const { security, lines, counted } = bench();
    for (let ms = 0; ms < 10_000; ms += 1) {
      security.record('sign-in-failed', { realm: 'tenant' }, from(`192.0.2.${ms % 250}`));
      vi.advanceTimersByTime(1);
    }
    expect(await counted('sign-in-failed')).toBe(10_000);
    expect(lines().length).toBeGreaterThan(BURST);
    expect(lines().length).toBeLessThanOrEqual(BURST + 10 * LINES_PER_SECOND);
  });

  it('leaves the lines of other events as they are', () => {
    const { security, lines } = bench();
    for (let time = 0; time < 1_000; time += 1) security.record('sign-in-failed', {}, from('192.0.2.7'));
    security.record('refresh-token-reused', {}, from('192.0.2.8'));
    expect(lines().filter(({ event }) => event === 'refresh-token-reused')).toHaveLength(1);
  });

  it('is followed by one line that says how many lines were left out', () => {
    const { security, lines } = bench();
    for (let time = 0; time < BURST + 25; time += 1) security.record('sign-in-failed', {}, from('192.0.2.7'));
    expect(lines()).toHaveLength(BURST);
    vi.advanceTimersByTime(ONE_WINDOW);
    expect(lines().slice(BURST)).toMatchObject([
      { security: true, event: 'sign-in-failed', leftOut: 25, level: 'info' },
    ]);
    expect(lines().flatMap(faultsOf)).toEqual([]);
    vi.advanceTimersByTime(10 * ONE_WINDOW);
    expect(lines()).toHaveLength(BURST + 1);
  });

  it('is reported at the end of the process, too', () => {
    const { security, lines } = bench();
    for (let time = 0; time < BURST + 3; time += 1) security.record('sign-in-failed', {}, from('192.0.2.7'));
    security.close();
    expect(lines().at(-1)).toMatchObject({ event: 'sign-in-failed', leftOut: 3 });
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('an event that a client can cause at will', () => {
  it('has one line for an address in a minute, and is counted each time', async () => {
    const { security, lines, counted } = bench();
    for (let time = 0; time < 1_000; time += 1) {
      security.record('rate-limited', { route: '/users' }, from('192.0.2.7'));
      security.record('rate-limited', { route: '/users' }, from('192.0.2.8'));
    }
    expect(lines().map(({ address }) => address)).toEqual(['192.0.2.7', '192.0.2.8']);
    vi.advanceTimersByTime(ONE_WINDOW);
    security.record('rate-limited', { route: '/users' }, from('192.0.2.7'));
    expect(lines().slice(2)).toMatchObject([{ leftOut: 1_998 }, { address: '192.0.2.7' }]);
    expect(await counted('rate-limited')).toBe(2_001);
  });

  it('stays within the rate of its event when it comes from many addresses', () => {
    const { security, lines } = bench();
    for (let time = 0; time < 20_000; time += 1)
      security.record('access-token-refused', {}, from(`198.51.${time % 100}.${time % 250}`));
    expect(lines()).toHaveLength(BURST);
  });
});

describe('a refusal', () => {
  it.each([
    [
      'a forged token',
      new AppError('unauthenticated', { event: { name: 'access-token-refused' } }),
      'access-token-refused',
    ],
    ['a missing permission', new AppError('forbidden'), 'forbidden'],
    ['a suspended tenant', new AppError('tenant-suspended'), 'suspended-tenant-used'],
    ['a rate limit', new AppError('rate-limited', { retryAfter: 1 }), 'rate-limited'],
    ['a tenant’s limit of requests', new AppError('tenant-limit-exceeded', { retryAfter: 1 }), 'rate-limited'],
    ['an unknown refresh token', new AppError('invalid-refresh-token'), 'refresh-token-refused'],
    ['a server that is not allowed', new AppError('cluster-host-not-allowed'), 'cluster-host-refused'],
  ])('for %s is an event', (_, error, event) => {
    expect(refusalEvent(error)).toBe(event);
  });

  it.each([
    ['an expired token, or none', new AppError('unauthenticated', { event: null })],
    ['a request without a token', new AppError('unauthenticated')],
    ['a throttled sign-in, which the trail reports', new AppError('rate-limited', { retryAfter: 1, event: null })],
    ['invalid input', new AppError('invalid-request')],
    ['a limit on users', new AppError('tenant-limit-exceeded')],
    ['a database that is down', new AppError('unavailable', { retryAfter: 1 })],
  ])('for %s is none', (_, error) => {
    expect(refusalEvent(error)).toBeUndefined();
  });
});

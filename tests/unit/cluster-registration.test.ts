// Which clusters may be registered, by the spelling of a host and by the server's own report.
import { describe, expect, it } from 'vitest';
import type { ClusterInspection } from '../../db/server/cluster-inspection.js';
import { allowedHosts, canonicalHost } from '../../src/clusters/cluster-hosts.js';
import { judgeCluster } from '../../src/operations/cluster-fitness.js';

describe('a host', () => {
  const isAllowed = allowedHosts(['db2.internal', '10.1.0.0/16', '192.0.2.7', 'fd00::/8'], 'db1.internal');

  it.each(['db1.internal', 'db2.internal', 'DB2.Internal', 'db2.internal.', '10.1.255.1', '192.0.2.7', 'fd00::1'])(
    '%s is allowed',
    (host) => {
      expect(isAllowed(host)).toBe(true);
    },
  );

  it.each([
    'db3.internal',
    'db2.internal.evil.example',
    'x.db2.internal',
    'localhost',
    '127.0.0.1',
    '10.2.0.1',
    '192.0.2.8',
    '169.254.169.254',
    '::1',
    'fe80::1',
    '::ffff:127.0.0.1',
    // Other spellings of 10.1.0.1, which is an address in its usual spelling only.
    '10.1.1',
    '167837697',
    '0x0a010001',
    '012.1.0.1',
    '',
  ])('%j is not allowed', (host) => {
    expect(isAllowed(host)).toBe(false);
  });

  it('has one canonical spelling', () => {
    expect(['DB.Internal.', '10.1.0.1', 'FD00:0:0:0:0:0:0:1', '::1'].map(canonicalHost)).toEqual([
      'db.internal',
      '10.1.0.1',
      'fd00::1',
      '::1',
    ]);
  });
});

describe('a server', () => {
  const budget = { tenants: 90, reserve: 6 };
  const good: ClusterInspection = {
    role: 'provisioner',
    superuser: false,
    canProvision: true,
    openDatabases: [],
    versionNumber: 150_000,
    version: '15.0',
    readOnly: false,
    clockSkew: 4_900,
    maxConnections: 96,
    otherCollations: 0,
    asciiDatabases: 0,
    hasTrigrams: true,
  };

  it('without faults has neither problems nor warnings', () => {
    expect(judgeCluster(good, budget)).toEqual({ problems: [], warnings: [] });
  });

  it.each<[Partial<ClusterInspection>, RegExp]>([
    [{ versionNumber: 149_999, version: '14.9' }, /15 or later.*14\.9/],
    [{ superuser: true }, /superuser/],
    [{ canProvision: false }, /CREATEDB and CREATEROLE/],
    [{ readOnly: true }, /not accept writes/],
    [{ clockSkew: 5_001 }, /5 s off/],
    [{ clockSkew: -60_000 }, /-60 s off/],
  ])('with %j cannot hold tenants', (wrong, problem) => {
    const { problems, warnings } = judgeCluster({ ...good, ...wrong }, budget);
    expect([problems, warnings]).toEqual([[expect.stringMatching(problem)], []]);
  });

  it.each<[Partial<ClusterInspection>, RegExp]>([
    [{ maxConnections: 95 }, /96 connections.*95/],
    [{ openDatabases: ['postgres', 'template1'] }, /postgres, template1/],
    [{ hasTrigrams: false }, /pg_trgm.*reads every row/],
    [{ asciiDatabases: 3 }, /^3 of the tenants' databases have the locale C/],
  ])('with %j has a warning', (wrong, warning) => {
    const { problems, warnings } = judgeCluster({ ...good, ...wrong }, budget);
    expect([problems, warnings]).toEqual([[], [expect.stringMatching(warning)]]);
  });
});

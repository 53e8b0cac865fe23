// src/tenants/tenant-states.ts: the table of states, and its diagram in docs/guide/lifecycle.md.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { AppError } from '../../src/errors.js';
import {
  databaseIs,
  ensurePossible,
  statusesFor,
  tenantActs,
  tenantStatuses,
  transitions,
} from '../../src/tenants/tenant-states.js';

const page = readFileSync(path.resolve(import.meta.dirname, '../../docs/guide/lifecycle.md'), 'utf8');

/** `from --> to: act` of each arrow with a name, and the arrows without one. */
function arrowsOf(markdown: string): { named: string[]; bare: string[] } {
  const [, diagram = ''] = /^```mermaid\nstateDiagram-v2\n(.*?)^```$/ms.exec(markdown) ?? [];
  const lines = diagram.split('\n').flatMap((line) => (line.trim() === '' ? [] : [line.trim()]));
  return { named: lines.filter((line) => line.includes(': ')), bare: lines.filter((line) => !line.includes(': ')) };
}

const arrows = tenantStatuses.flatMap((from) =>
  tenantActs.flatMap((act) => (transitions[from][act] ?? []).map((to) => `${from} --> ${to}: ${act}`)),
);

describe('the diagram on the page', () => {
  it('has every transition of the table and no other', () => {
    const { named, bare } = arrowsOf(page);
    expect(named.toSorted()).toEqual(arrows.toSorted());
    expect(bare).toEqual(['[*] --> provisioning', 'deleting --> [*]']);
  });

  it('is read as it is drawn', () => {
    const drawn = '```mermaid\nstateDiagram-v2\n    [*] --> a\n    a --> b: go\n```\n';
    expect(arrowsOf(drawn)).toEqual({ named: ['a --> b: go'], bare: ['[*] --> a'] });
  });

  it('is followed by a table with a row for each status', () => {
    const rows = [...page.matchAll(/^\| `(\w+)` \|/gm)].map(([, status]) => status);
    expect(rows).toEqual([...tenantStatuses]);
  });
});

describe('the table of states', () => {
  it('has no transition out of deleting', () => {
    expect(new Set(Object.values(transitions.deleting).flat())).toEqual(new Set(['deleting']));
  });

  it('leads to the removal of a tenant only from states in which the tenant is not served', () => {
    const before = tenantStatuses.filter((status) => Object.values(transitions[status]).flat().includes('deleting'));
    for (const status of before) expect([status, databaseIs[status]]).not.toEqual([status, 'open']);
  });

  it('decides which acts are possible', () => {
    expect(statusesFor('purge')).toEqual(['deleted', 'deleting']);
    for (const status of tenantStatuses)
      for (const act of tenantActs) {
        const attempt = (): void => {
          ensurePossible(act, status);
        };
        if (transitions[status][act]) expect(attempt).not.toThrow();
        else
          expect(attempt).toThrow(
            new AppError('tenant-state', { detail: `The tenant is ${status}: ${act} is not possible.` }),
          );
      }
  });
});

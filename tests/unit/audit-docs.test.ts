// docs/guide/audit.md lists the actions and the reasons of refused sign-ins that the code has.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { auditActions } from '../../db/shared/audit-rows.js';

const ROOT = path.resolve(import.meta.dirname, '../..');
const page = readFileSync(path.join(ROOT, 'docs/guide/audit.md'), 'utf8');
const [, section = ''] = /^## What is audited$(.*?)^## /ms.exec(page) ?? [];

/** The backquoted words in the first cell of each row. */
function actionsOf(markdown: string): string[] {
  const rows = markdown.split('\n').filter((line) => line.startsWith('| `'));
  return rows.flatMap((row) => [...(row.split('|')[1] ?? '').matchAll(/`([^`]+)`/g)].map(([, action = '']) => action));
}

describe('the page on the audit', () => {
  it('lists every action of the code and no other, in its order', () => {
    expect(actionsOf(section)).toEqual([...auditActions]);
  });

  it('lists every reason of a refused sign-in', () => {
    const code = readFileSync(path.join(ROOT, 'src/auth/sign-in.ts'), 'utf8');
    const reasons = new Set<string>();
    for (const [, reason = ''] of code.matchAll(
      /['`]((?:wrong|changed|unknown|inactive|suspended|deleted)-[\w${}]+)['`]/g,
    ))
      for (const kind of reason.includes('${kind}') ? ['user', 'operator'] : [''])
        reasons.add(reason.replace('${kind}', kind));
    const [, listed = ''] = /^Reasons: (.*?)\.$/ms.exec(section) ?? [];
    expect([...listed.matchAll(/`([^`]+)`/g)].map(([, reason]) => reason).sort()).toEqual([...reasons].sort());
  });
});

it('an action counts at the beginning of a row, and one cell can have two actions', () => {
  expect(actionsOf('| action |\n| --- |\n| `a.b` | `no` |\n| `c.d`, `e.f` | |\nand `g.h`')).toEqual([
    'a.b',
    'c.d',
    'e.f',
  ]);
});

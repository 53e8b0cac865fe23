// src/connections/probe-turn.ts: probes of a server that hangs do not take the slots of its tenants.
import { expect, it } from 'vitest';
import { probeTurn } from '../../src/connections/probe-turn.js';

it('a probe connects at once while few connections are held, and otherwise waits for one to close, within a deadline', async () => {
  let held = 7;
  const governor = { heldBy: () => held };
  await probeTurn(governor, 0);
  held = 8;
  await expect(probeTurn(governor, 30)).rejects.toMatchObject({ name: 'DatabaseFault', kind: 'busy' });
  const turn = probeTurn(governor, 10_000);
  held = 7;
  await turn;
});

// The look-ups of names in db/driver/destinations.ts.
import { expect, it, onTestFinished } from 'vitest';
import { createDestinations } from '../../db/driver/destinations.js';

const NAMES = ['one.example', 'two.example', 'three.example', 'four.example', 'five.example'];

it('looks up two names at once when no name server answers, and every name when it does', async () => {
  const asked: string[] = [];
  const answers: ((addresses: string[]) => void)[] = [];
  const destinations = createDestinations({
    maxAge: 60_000,
    resolve: (host) => {
      asked.push(host);
      return new Promise((resolve) => answers.push(resolve));
    },
  });
  onTestFinished(() => {
    destinations.close();
  });
  for (const host of NAMES)
    destinations.at({ host, port: 5432 }).join({ address: '192.0.2.1', retire: () => undefined });
  await expect.poll(() => asked.length, { timeout: 3_000 }).toBeGreaterThan(0);
  // The next look-ups of the same names are due now.
  await new Promise((resolve) => setTimeout(resolve, 1_200));
  expect(asked).toEqual(NAMES.slice(0, 2));
  while (asked.length < NAMES.length) {
    answers.shift()?.(['192.0.2.1']);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  expect(new Set(asked)).toEqual(new Set(NAMES));
});

// The look-ups of names in db/driver/destinations.ts, and which servers its connections lead to.
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
  await expect.poll(() => asked.length).toBeGreaterThan(0);
  // The next look-ups of the same names are due now.
  await new Promise((resolve) => setTimeout(resolve, 1_200));
  expect(asked).toEqual(NAMES.slice(0, 2));
  while (asked.length < NAMES.length) {
    answers.shift()?.(['192.0.2.1']);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  expect(new Set(asked)).toEqual(new Set(NAMES));
});

it('knows the one server that all connections to a place lead to, until one leads to another', () => {
  const connected: string[] = [];
  const destinations = createDestinations({
    maxAge: 60_000,
    onConnected: ({ place, server }) => connected.push(`${place} ${server}`),
  });
  onTestFinished(() => {
    destinations.close();
  });
  const destination = destinations.at({ host: 'one.example', port: 5432 });
  const join = (server: string, takesWrites = true): (() => void) =>
    destination.join({ address: '192.0.2.1', server, takesWrites, retire: () => undefined });
  const seen = (): unknown[] => [destination.server, destination.serverChanges];
  expect(seen()).toEqual([undefined, 0]);
  const leave = [join('former'), join('former')];
  expect(seen()).toEqual(['former', 0]);
  // A connection that is retired leads to its server until it has closed.
  destination.tookNoWrite();
  const next = join('next');
  expect(seen()).toEqual([undefined, 1]);
  leave[0]?.();
  expect(seen()).toEqual([undefined, 1]);
  leave[1]?.();
  expect(seen()).toEqual(['next', 1]);
  next();
  expect(seen()).toEqual(['next', 1]);
  join('former', false);
  expect(seen()).toEqual(['former', 2]);
  expect(connected).toEqual(['one.example:5432 former', 'one.example:5432 former', 'one.example:5432 next']);
});

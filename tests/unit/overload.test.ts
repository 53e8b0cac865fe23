// When requests are refused, by the lengths of the event loop's turns.
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Overload, type OverloadEnded } from '../../src/http/overload-state.js';
import { watchTurns } from '../../src/lib/loop-turns.js';

const LIMIT = 100;

function watched(): { overload: Overload; told: (number | OverloadEnded)[]; clock: { now: number } } {
  const told: (number | OverloadEnded)[] = [];
  const clock = { now: 5_000 };
  const note = (what: number | OverloadEnded): void => void told.push(what);
  const overload = new Overload(LIMIT, { begun: note, ended: note }, () => clock.now);
  return { overload, told, clock };
}

describe('an overload', () => {
  it('begins with the third turn in a row that is longer than the limit', () => {
    const { overload, told } = watched();
    for (const turn of [101, 500]) overload.turnEnded(turn);
    expect(told).toEqual([]);
    overload.turnEnded(150);
    expect(told).toEqual([150]);
  });

  it('does not begin if a shorter turn comes between, however long the others are', () => {
    const { overload, told } = watched();
    for (const turn of [5_000, 5_000, 100, 5_000, 5_000, 3, 5_000]) overload.turnEnded(turn);
    expect(told).toEqual([]);
  });

  it('serves what is read in the first quarter of the limit, and refuses the rest of the turn', () => {
    const { overload } = watched();
    for (const turn of [200, 200, 200]) overload.turnEnded(turn);
    expect([0, 10, 25, 25.1, 80, 1_000].map((worked) => overload.refuses(worked))).toEqual([
      false,
      false,
      false,
      true,
      true,
      true,
    ]);
  });

  it('ends a second after the last refusal, and tells how many there were', () => {
    const { overload, told, clock } = watched();
    for (const turn of [200, 200, 200]) overload.turnEnded(turn);
    clock.now += 400;
    overload.refuses(90);
    overload.refuses(91);
    clock.now += 999;
    overload.turnEnded(1);
    expect(told).toEqual([200]);
    clock.now += 1;
    overload.turnEnded(1);
    expect(told).toEqual([200, { refused: 2, duration: 1_400 }]);
  });

  it('goes on while requests are refused, although the turns are short again', () => {
    const { overload, told, clock } = watched();
    for (const turn of [200, 200, 200]) overload.turnEnded(turn);
    for (let time = 0; time < 10_000; time += 100) {
      clock.now += 100;
      overload.refuses(30);
      overload.turnEnded(31);
    }
    expect(told).toEqual([200]);
  });

  it('starts to count again after it has ended', () => {
    const { overload, told, clock } = watched();
    for (const turn of [200, 200, 200]) overload.turnEnded(turn);
    overload.refuses(90);
    clock.now += 1_000;
    // Nothing was refused, and yet it is not over.
    overload.turnEnded(300);
    expect(told).toHaveLength(1);
    overload.turnEnded(2);
    for (const turn of [300, 300]) overload.turnEnded(turn);
    expect(told).toHaveLength(2);
    overload.turnEnded(300);
    clock.now += 1_000;
    overload.turnEnded(1);
    expect(told.at(-1)).toEqual({ refused: 0, duration: 1_000 });
  });
});

describe('the watch of turns', () => {
  it('measures work and no waiting', async () => {
    const turns: number[] = [];
    const watch = watchTurns((worked) => void turns.push(worked));
    onTestFinished(() => {
      watch.stop();
    });
    await sleep(2_000);
    const begunAt = performance.now();
    while (performance.now() - begunAt < 200);
    expect(watch.worked()).toBeGreaterThanOrEqual(200);
    await sleep(20);
    // A turn that counted the wait would be longer than 2,200 ms.
    const longest = Math.max(...turns);
    expect(longest).toBeGreaterThanOrEqual(200);
    expect(longest).toBeLessThan(2_000);
    const before = turns.length;
    watch.stop();
    await sleep(20);
    expect(turns).toHaveLength(before);
  });

  it('lets the loop wait for input: an idle process has few turns', async () => {
    let turns = 0;
    const watch = watchTurns(() => void (turns += 1));
    await sleep(500);
    const idle = turns;
    turns = 0;
    const spinning = { goesOn: true };
    const spin = (): void => {
      if (spinning.goesOn) setImmediate(spin);
    };
    spin();
    await sleep(500);
    spinning.goesOn = false;
    watch.stop();
    // The second loop did not wait.
    expect(idle).toBeLessThan(turns / 10);
  });
});

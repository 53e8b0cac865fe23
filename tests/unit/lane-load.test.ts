// db/driver/lane/lane-load.ts: which reads join the lane, by the duration of their statements.
import { describe, expect, it } from 'vitest';
import { LaneLoad } from '../../db/driver/lane/lane-load.js';

/** Reads that are answered one after the other, each after `took` ms. */
function answer(load: LaneLoad, text: string, took: number, times: number): void {
  const statement = load.statement(text);
  for (let time = 0; time < times; time += 1) {
    load.begin(statement);
    load.end(statement, took);
  }
}

/** Reads that join until the lane is full, at most 1,000. */
function join(load: LaneLoad, text: string): number {
  let joined = 0;
  for (; joined < 1_000 && !load.isFull; joined += 1) load.begin(load.statement(text));
  return joined;
}

describe('the lane', () => {
  it('accepts quick reads, and reads of unknown duration', () => {
    const load = new LaneLoad();
    answer(load, 'select 1', 0.1, 100);
    expect(join(load, 'select 1')).toBe(1_000);
    expect(join(load, 'select 2')).toBe(1_000);
  });

  it.each([
    [300, 1],
    [100, 3],
    [10, 26],
  ])('is full with reads of %d ms when %d of them are running', (took, most) => {
    const load = new LaneLoad();
    answer(load, 'select 1', took, 20);
    expect(join(load, 'select 1')).toBe(most);
  });

  it('does not count a late answer to a quick statement as a slow statement', () => {
    const load = new LaneLoad();
    answer(load, 'select 1', 0.1, 1_000);
    answer(load, 'select 1', 150, 1);
    answer(load, 'select 1', 0.1, 20);
    expect(join(load, 'select 1')).toBe(1_000);
  });

  it('accepts reads again when their statement has become quick', () => {
    const load = new LaneLoad();
    answer(load, 'select 1', 300, 10);
    answer(load, 'select 1', 0.1, 256);
    expect(join(load, 'select 1')).toBe(1_000);
  });

  it('is overfull if its reads take longer than expected, until they have ended', () => {
    const load = new LaneLoad();
    const statement = load.statement('select 1');
    for (let read = 0; read < 40; read += 1) load.begin(statement);
    expect(load.isOverfull).toBe(false);
    load.end(statement, 300);
    expect(load.isOverfull).toBe(true);
    // The lane is closed.
    for (let read = 1; read < 40; read += 1) load.end(statement, undefined);
    expect([load.isFull, load.isOverfull]).toEqual([false, false]);
  });

  it('keeps statements apart: a running slow one keeps others away, but does not make them count as slow', () => {
    const load = new LaneLoad();
    answer(load, 'select slow', 400, 5);
    answer(load, 'select quick', 0.1, 100);
    const slow = load.statement('select slow');
    load.begin(slow);
    expect(load.isFull).toBe(true);
    load.end(slow, 400);
    expect(join(load, 'select quick')).toBe(1_000);
  });
});

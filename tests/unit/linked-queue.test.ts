// src/lib/linked-queue.ts: the same order as an array, with items that leave from any place.
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { LinkedQueue, Queued } from '../../src/lib/linked-queue.js';

class Item extends Queued<Item> {
  constructor(readonly name: number) {
    super();
  }
}

it('two queues keep their order as arrays do, and an item that joins one leaves the other', () => {
  const step = fc.record({ act: fc.constantFrom('push', 'unshift', 'remove'), at: fc.nat(1), item: fc.nat(5) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const items = Array.from({ length: 6 }, (_, name) => new Item(name));
      const queues = [new LinkedQueue<Item>(), new LinkedQueue<Item>()];
      let model: Item[][] = [[], []];
      for (const { act, at, item: name } of steps) {
        const item = items[name] ?? new Item(name);
        queues[at]?.[act as 'push'](item);
        model = model.map((inside, index) => {
          const others = inside.filter((other) => other !== item);
          if (act === 'remove') return index === at ? others : inside;
          if (index !== at) return others;
          return act === 'push' ? [...others, item] : [item, ...others];
        });
        for (const [index, queue] of queues.entries()) {
          expect([...queue].map((inside) => inside.name)).toEqual(model[index]?.map((inside) => inside.name));
          expect(queue.size).toBe(model[index]?.length);
          expect(queue.first).toBe(model[index]?.[0]);
        }
      }
    }),
  );
});

it('an item can leave the queue while a loop visits it', () => {
  const queue = new LinkedQueue<Item>();
  for (const name of [1, 2, 3]) queue.push(new Item(name));
  const seen: number[] = [];
  for (const item of queue) {
    seen.push(item.name);
    queue.remove(item);
  }
  expect(seen).toEqual([1, 2, 3]);
  expect(queue.size).toBe(0);
});

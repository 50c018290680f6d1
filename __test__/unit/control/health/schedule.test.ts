import { expect, test } from "vitest";
import { type Due, Schedule, UNSCHEDULED } from "../../../../ts/control/health/schedule.ts";

type Item = Due & { name: number };

const item = (name: number): Item => ({ name, due: 0, position: UNSCHEDULED });

/** A small generator with a seed, so that a failure can be repeated. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

test("what is due first comes first, through any mix of adding, moving and removing", () => {
  for (let seed = 1; seed <= 50; seed++) {
    const next = random(seed);
    const items = Array.from({ length: 64 }, (_, i) => item(i));
    const schedule = new Schedule<Item>();
    const expected = new Map<Item, number>();
    for (let step = 0; step < 500; step++) {
      const chosen = items[Math.floor(next() * items.length)] as Item;
      if (next() < 0.3) {
        schedule.remove(chosen);
        expected.delete(chosen);
      } else {
        const due = Math.floor(next() * 1000);
        schedule.set(chosen, due);
        expected.set(chosen, due);
      }
      expect(schedule.size).toBe(expected.size);
      expect(schedule.first?.due).toBe(expected.size === 0 ? undefined : Math.min(...expected.values()));
    }
    const drained: number[] = [];
    for (let first = schedule.first; first !== undefined; first = schedule.first) {
      drained.push(first.due);
      schedule.remove(first);
      expect(first.position).toBe(UNSCHEDULED);
    }
    expect(drained).toEqual([...expected.values()].sort((a, b) => a - b));
  }
});

test("removing what is not scheduled does nothing", () => {
  const schedule = new Schedule<Item>();
  const scheduled = item(1);
  schedule.set(scheduled, 5);
  schedule.remove(item(2));
  expect(schedule.first).toBe(scheduled);
});

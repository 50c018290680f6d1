import { expect, test } from "vitest";
import { type Laned, Lanes } from "../../../../ts/control/health/lanes.ts";

const check = (suspect = false): Laned => ({ lane: undefined, queued: false, suspect });

test("suspects leave half of few places to those that answer", () => {
  const lanes = new Lanes<Laned>(10);
  const suspects = Array.from({ length: 20 }, () => check(true));
  expect(suspects.map((s) => lanes.enter(s)).filter(Boolean).length).toBe(5);
  for (let i = 0; i < 5; i++) expect(lanes.enter(check())).toBe(true);
  expect(lanes.enter(check())).toBe(false);
  expect(lanes.open).toBe(10);
});

test("a check that takes long gives up its prompt place as soon as a slow one is free", () => {
  const lanes = new Lanes<Laned>(2);
  const [suspect, long, waiting] = [check(true), check(), check()];
  expect([lanes.enter(suspect), lanes.enter(long), lanes.enter(waiting)]).toEqual([true, true, false]);
  lanes.slowDown(long);
  expect(long.lane).toBe("prompt");
  lanes.leave(suspect);
  expect(long.lane).toBe("slow");
  expect(lanes.next()).toBe(waiting);
  expect(lanes.open).toBe(2);
});

test("one that leaves while it waits has no turn, and leaving twice frees nothing twice", () => {
  const lanes = new Lanes<Laned>(1);
  const [held, waiting] = [check(), check()];
  lanes.enter(held);
  lanes.enter(waiting);
  lanes.leave(waiting);
  lanes.leave(held);
  lanes.leave(held);
  expect([lanes.next(), lanes.open]).toEqual([undefined, 0]);
});

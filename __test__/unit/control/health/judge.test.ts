import { expect, test } from "vitest";
import { inTransition, judge, unproven } from "../../../../ts/control/health/judge.ts";

const thresholds = { rise: 2, fall: 3 };

/** Runs results ("+" ok, "-" failed) and draws the state after each: "U" up, "D" down. */
function run(results: string, { rise, fall } = thresholds): string {
  const health = unproven();
  return [...results]
    .map((result) => {
      judge(health, result === "+", { rise, fall });
      return health.up ? "U" : "D";
    })
    .join("");
}

test("a server counts as up before anything is known", () => {
  expect(unproven().up).toBe(true);
});

test("it goes down at exactly the fall-th failure in a row and up at exactly the rise-th success", () => {
  expect(run("---++-")).toBe("UUDDUU");
});

test("one success between failures starts the count anew, so that flapping below the threshold changes nothing", () => {
  expect(run("--+--+--+")).toBe("UUUUUUUUU");
  expect(run("---+-+-+-")).toBe("UUDDDDDDD");
});

test("thresholds of one change the state with every result", () => {
  expect(run("-+-+", { rise: 1, fall: 1 })).toBe("DUDU");
});

test("judge tells exactly the results that change the state", () => {
  const health = unproven();
  const changes = [..."----++++"].map((r) => judge(health, r === "+", thresholds));
  expect(changes).toEqual([false, false, true, false, false, true, false, false]);
});

test("a server is in transition while results speak against its state", () => {
  const health = unproven();
  expect(inTransition(health)).toBe(false);
  judge(health, false, thresholds);
  expect(inTransition(health)).toBe(true);
  judge(health, true, thresholds);
  expect(inTransition(health)).toBe(false);
});

import { describe, expect, test } from "vitest";
import { absolute, control, decide, median, noise, paired } from "../../bench/statistics.ts";
import { unstolen } from "../../bench/steal.ts";

type Seen = { peer: string; figures: { rate?: number } };

function visit(peer: string, rate?: number): Seen {
  return { peer, figures: rate === undefined ? {} : { rate } };
}

describe("statistics of rounds", () => {
  const rounds = [
    [visit("a", 10), visit("b", 20), visit("b", 20), visit("a", 30)],
    [visit("a", 5), visit("b", 20), visit("b"), visit("a", 5)],
    [visit("a"), visit("b", 20), visit("b", 10), visit("a")],
  ];

  test("pairs what happened in the same round, and leaves out rounds in which one has nothing", () => {
    expect(paired(rounds, "a", "b", "rate")).toEqual({ median: 0.625, min: 0.25, max: 1, n: 2 });
    expect(paired(rounds, "a", "nobody", "rate")).toBeUndefined();
  });

  test("takes the mean of there and back, then the median of rounds", () => {
    expect(absolute(rounds, "b", "rate")?.median).toBe(20);
  });

  test("compares a peer with itself only where both visits have the figure", () => {
    expect(control(rounds, ["a", "b"], "rate")).toEqual([1 / 3, 1, 1, 2]);
  });

  test("takes the middle of an even number of values", () => {
    expect(median([4, 1, 3, 2])).toBe(2.5);
  });

  test("decides nothing without a control", () => {
    const ratio = { median: 9, min: 9, max: 9, n: 7 };
    expect(decide(ratio, noise([]))).toBe("within noise");
    expect(decide(ratio, noise([1.1, 0.9]))).toBe("decided");
  });
});

describe("a run with stolen time", () => {
  test("is made again until it is quiet", async () => {
    const shares = [0.2, 0.05, 0.001];
    const seen = await unstolen(async () => ({ steal_share: shares.shift() ?? 1 }));
    expect(seen).toEqual({ steal_share: 0.001 });
  });

  test("has no figure after the third", async () => {
    let runs = 0;
    const seen = await unstolen(async () => {
      runs += 1;
      return { steal_share: 0.5 };
    });
    expect(seen).toBeUndefined();
    expect(runs).toBe(3);
  });
});

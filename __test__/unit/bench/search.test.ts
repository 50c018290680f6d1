import { describe, expect, test } from "vitest";
import { highestRate } from "../../bench/packet/search.ts";

const range = { guess: 100, step: 1.4, floor: 1, ceiling: 1000, precision: 0.02 };

describe("the search for the highest rate without loss", () => {
  for (const limit of [1.5, 40, 99, 101, 350, 990]) {
    test(`ends just below a limit of ${limit}, wherever it begins`, async () => {
      for (const guess of [1, 100, 1000, 5000]) {
        const found = await highestRate(async (rate) => rate <= limit, { ...range, guess });
        expect(found?.atCeiling).toBe(false);
        expect(found?.rate).toBeLessThanOrEqual(limit);
        expect(found?.rate).toBeGreaterThan(limit / 1.021);
      }
    });
  }

  test("says when the generator was the limit", async () => {
    expect(await highestRate(async () => true, range)).toEqual({ rate: 1000, atCeiling: true });
  });

  test("finds nothing when even the floor loses", async () => {
    expect(await highestRate(async () => false, range)).toBeUndefined();
  });

  test("is not misled by single failures", async () => {
    let asked = 0;
    const found = await highestRate(async (rate) => rate <= 350 && asked++ % 2 === 1, range);
    expect(found?.rate).toBeGreaterThan(340);
  });

  test("asks ten times when it begins near the answer with small steps", async () => {
    let asked = 0;
    const passes = async (rate: number) => {
      asked += 1;
      return rate <= 350;
    };
    await highestRate(passes, { ...range, guess: 330, step: 1.15 });
    expect(asked).toBeLessThanOrEqual(10);
  });
});

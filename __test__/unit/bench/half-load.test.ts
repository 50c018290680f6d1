import { describe, expect, test } from "vitest";
import { halfOf } from "../../bench/half-load.ts";

describe("half load", () => {
  test("is half of the best rate measured, whoever had it", () => {
    const half = halfOf({ convey: 40_000, nginx: 60_001, haproxy: 50_000 });
    expect(half).toMatchObject({ requestsPerS: 30_001, best: "nginx" });
  });

  test("has a reason instead of a number when nothing could be measured", () => {
    expect(halfOf({})).toEqual({ reason: expect.stringMatching(/stolen time/) });
    expect(halfOf({ convey: 0 })).toHaveProperty("reason");
  });
});

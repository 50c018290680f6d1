import { describe, expect, test, vi } from "vitest";
import { attempt } from "../../bench/attempt.ts";

describe("a visit that fails", () => {
  const fail = async (): Promise<string[]> => {
    throw new Error("no answer through nginx within 15000 ms\n--- stdout");
  };

  test("ends the bench in the first round", async () => {
    await expect(attempt(1, fail, (missing) => missing)).rejects.toThrow("no answer through nginx");
  });

  test("is lost with its reason in a later one", async () => {
    const told = vi.spyOn(console, "error").mockImplementation(() => {});
    const lost = await attempt(2, fail, (missing) => missing);
    expect(lost).toEqual(["every figure: no answer through nginx within 15000 ms"]);
    expect(told).toHaveBeenCalledOnce();
    told.mockRestore();
  });
});

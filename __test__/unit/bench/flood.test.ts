import { describe, expect, test } from "vitest";
import { parseSeen } from "../../bench/packet/flood.ts";

function counters(packets: number, busyTicks: number, stealTicks: number): string {
  const stat = (name: string) => `${name} ${busyTicks} 0 0 100 0 0 0 ${stealTicks} 0 0`;
  return `${packets}\n${stat("cpu ")}\n${stat("cpu1")}\n`;
}

describe("a flood", () => {
  test("counts as lost what has not arrived when sending ended", () => {
    const seen = parseSeen(`${counters(7, 100, 0)}sent 1000 in 0.500000 s\n${counters(997, 120, 0)}`);
    expect(seen).toMatchObject({ offered: 2000, delivered: 990, seconds: 0.5, busySeconds: 0.2 });
    expect(seen.loss).toBeCloseTo(0.01);
  });

  test("tells what share of the machine was stolen meanwhile", () => {
    const seen = parseSeen(`${counters(0, 100, 0)}sent 10 in 1.0 s\n${counters(11, 175, 25)}`);
    expect(seen.steal_share).toBe(0.25);
    expect(seen.loss).toBe(0);
  });

  test("is an error when nothing was sent", () => {
    expect(() => parseSeen("no route to host")).toThrow("no flood in: no route to host");
  });
});

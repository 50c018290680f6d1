import { expect, test } from "vitest";
import { matrix } from "../../support/matrix.ts";

test("every case has a cell for each engine, and every skip its reason, told once", () => {
  const ran = (mark: "ok" | "FAILED" | "skipped", reason?: string) =>
    new Map([["af_packet", { mark, reason }]]);
  const text = matrix(
    new Map([
      ["l2: one", ran("ok")],
      ["l2: two", ran("skipped", "needs root")],
      ["l2: three", ran("FAILED")],
    ]),
  );
  const lines = text.trim().split("\n");
  expect(lines[1]?.trim().split(/\s+/)).toEqual(["af_packet", "tc", "xdp", "af_xdp"]);
  expect(lines.slice(2, 5).map((line) => line.split(/\s+/)[0])).toEqual(["ok", "(4)", "FAILED"]);
  expect(lines.slice(5).map((line) => line.replace(/:.*/, ""))).toEqual([
    "(1) tc",
    "(2) xdp",
    "(3) af_xdp",
    "(4) af_packet",
  ]);
  expect(lines.at(-1)).toBe("(4) af_packet: needs root");
});

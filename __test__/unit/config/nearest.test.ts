import { expect, test } from "vitest";
import { editDistance, nearest } from "../../../ts/config/nearest.ts";

test.each([
  ["", "", 0],
  ["", "abc", 3],
  ["abc", "abc", 0],
  ["abc", "abd", 1],
  ["abc", "acb", 1],
  ["abc", "ab", 1],
  ["kitten", "sitting", 3],
])("from %j to %j are %i edits", (a, b, edits) => {
  expect(editDistance(a, b)).toBe(edits);
  expect(editDistance(b, a)).toBe(edits);
});

test("the nearest word within one edit in three characters is suggested", () => {
  expect(nearest("wieght", ["addr", "weight", "max_connections"])).toBe("weight");
  expect(nearest("prot", ["port", "bind"])).toBe("port");
  expect(nearest("LISTEN-ADDR", ["listen_addr"])).toBe("listen_addr");
});

test("what is not near is not suggested", () => {
  expect(nearest("timeout", ["addr", "weight"])).toBeUndefined();
  expect(nearest("x", ["ab"])).toBeUndefined();
  expect(nearest("y".repeat(100_000), ["y".repeat(99_999)])).toBeUndefined();
});

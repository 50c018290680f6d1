/** The conformance table is whole, and what it names is there. */
import { expect, test } from "vitest";
import { found } from "../../conformance/found.ts";
import { CONFORMANCE } from "../../conformance/table.ts";

test.each(Object.entries(CONFORMANCE))("%s has tests, or says why not", (_id, { tests, open }) => {
  for (const piece of tests) expect(found(piece), `no test has "${piece}" in its title`).not.toEqual([]);
  if (tests.length === 0) expect(open).toBeTruthy();
});

test("no row is missing", () => {
  const ids = (letter: string, last: number) => Array.from({ length: last }, (_, n) => `${letter}${n + 1}`);
  expect(Object.keys(CONFORMANCE)).toEqual([...ids("C", 37), ...ids("F", 35), ...ids("S", 13)]);
});

import { expect, test } from "vitest";
import { Lines, stacks } from "../../bench/lines.ts";

const MAPS = [
  "0483c000-0483d000 ---p 00000000 00:00 0 ",
  "0483d000-0483f000 rw-p 00000000 00:00 0 ",
  "04b2d000-04b2e000 ---p 00000000 00:00 0 ",
  "04b2e000-04d2e000 rw-p 00000000 00:00 0 ",
  "04d2e000-04d2f000 ---p 00000000 00:00 0 ",
  "04d2f000-04f2f000 rw-p 00000000 00:00 0 ",
  "05000000-05200000 rw-p 00000000 00:00 0 [heap]",
  "08037000-0c000000 ---p 00000000 00:00 0 ",
  "0c000000-0c037000 rw-p 00000000 00:00 0 ",
  "",
].join("\n");

const A = " L 04b2e010,8";
const B = " S 04d2f010,8";

function counted(...trace: string[]) {
  const lines = new Lines(stacks(MAPS));
  for (const line of trace) lines.take(line);
  return lines.counts();
}

test("stacks are what is behind a guard page, without the small ones of signals and memory of the allocator", () => {
  expect(stacks(MAPS).map(({ from }) => from)).toEqual([0x4b2e000n, 0x4d2f000n]);
});

test("a line that one thread uses is not shared, however often it is written", () => {
  expect(counted(A, " S 05000000,8", " M 05000008,4", B, " S 05000040,8")).toEqual({
    writes: 3,
    shared: 0,
    taken: 0,
  });
});

test("a line is taken by the first write after another thread read or wrote it", () => {
  const trace = [
    A,
    " S 05000000,8",
    B,
    " L 05000010,8",
    A,
    " S 05000000,8",
    " S 05000000,8",
    "I  00000001,2",
  ];
  expect(counted(...trace)).toEqual({ writes: 3, shared: 3, taken: 1 });
});

test("an access over the end of a line is one to both", () => {
  expect(counted(A, " S 0500003c,8")).toMatchObject({ writes: 2 });
});

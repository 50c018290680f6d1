import { describe, expect, test } from "vitest";
import {
  addUp,
  byNeeds,
  closingLine,
  readCargoTest,
  readIgnored,
  readVitest,
} from "../../../ts/bootstrap/count.mjs";

const good = { ok: true, text: "exit code 0" };
const bad = { ok: false, text: "exit code 101" };

const CARGO = `
running 3 tests
test pool::weights_are_exact ... ok
test pool::needs_root ... ignored, needs root
test pool::breaks ... FAILED

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s

running 1 test
test relay::half_close ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
`;

describe("cargo test", () => {
  test("is counted over all binaries, with the reason of what was ignored", () => {
    expect(readCargoTest(CARGO, bad)).toEqual({
      passed: 2,
      failed: [{ name: "pool::breaks", reason: "failed" }],
      skipped: [{ name: "pool::needs_root", reason: "needs root" }],
    });
  });

  test("that does not compile counts as one failure", () => {
    expect(readCargoTest("", bad)).toEqual({
      passed: 0,
      failed: [{ name: "cargo test", reason: "exit code 101" }],
      skipped: [],
    });
  });

  test("whose binary dies in the middle counts as one failure beside what passed", () => {
    const tally = readCargoTest("running 2 tests\ntest one ... ok\n", { ok: false, text: "exit code 101" });
    expect([tally.passed, tally.failed.length]).toEqual([1, 1]);
  });

  test("lines torn by a test's own output are made up from the summary", () => {
    const torn =
      "test one ... noise\nok\ntest two ... ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored;\n";
    expect(readCargoTest(torn, good)).toMatchObject({ passed: 2, failed: [] });
  });
});

describe("ignored Rust tests", () => {
  const test = (reason) => ({ name: reason, reason });

  test("are put together by what they need, in whatever order and words they say it", () => {
    const reasons = [
      "needs root",
      "needs nft, root: why",
      "needs root, and nft",
      "needs root and nft: another",
    ];
    const { groups, others, wrong } = byNeeds(reasons.map(test));
    expect(groups.map(({ needs, tests }) => [needs, tests.length])).toEqual([
      [["root"], 1],
      [["nft", "root"], 3],
    ]);
    expect([others, wrong]).toEqual([[], []]);
  });

  test("that need what nobody knows fail: they would never run", () => {
    const { groups, wrong } = byNeeds([test("needs patience: it takes an hour")]);
    expect(groups).toEqual([]);
    expect(wrong).toEqual([
      { name: expect.any(String), reason: expect.stringMatching(/^needs patience, which .*needs\.mjs/) },
    ]);
  });

  test("that another test runs are no tests of their own; any other reason is left as it is", () => {
    const run = ["run in a child process by one_with_few_descriptors", "run by another"];
    const { groups, others } = byNeeds([...run, "takes an hour", "marked as ignored"].map(test));
    expect(groups).toEqual([]);
    expect(others.map(({ name }) => name)).toEqual(["takes an hour", "marked as ignored"]);
  });

  test("that were asked for and did not run count as failed", () => {
    const asked = [{ name: "a" }, { name: "b" }];
    const output = "test a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored;\n";
    expect(readIgnored(output, good, asked)).toMatchObject({
      passed: 1,
      failed: [{ reason: "was asked for and did not run" }],
    });
    expect(readIgnored(output, good, asked.slice(1))).toMatchObject({ passed: 1, failed: [] });
  });
});

describe("vitest", () => {
  test("without a report counts as one failure", () => {
    expect(readVitest(undefined, { ok: false, text: "ended by SIGSEGV" }).failed).toEqual([
      { name: "vitest", reason: "ended without a report (ended by SIGSEGV)" },
    ]);
  });

  test("that ends badly although every test passed counts as one failure", () => {
    const report = JSON.stringify({ passed: 7, failed: [], skipped: [] });
    expect(readVitest(report, bad)).toMatchObject({ passed: 7, failed: [{ name: "vitest" }] });
    expect(readVitest(report, good)).toMatchObject({ passed: 7, failed: [] });
  });
});

test("the closing line adds everything up", () => {
  const total = addUp([readCargoTest(CARGO, bad), readVitest(undefined, bad)]);
  expect(closingLine(total)).toBe("2 passed, 2 failed, 1 skipped");
});

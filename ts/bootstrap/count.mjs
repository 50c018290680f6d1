/** Adds up outcomes of several test runners. A runner that ended badly without a failed test counts as one. */
import { namesIn, unknownNames } from "./needs.mjs";

/** An empty tally: `failed` and `skipped` hold `{ name, reason }`. */
export const noOutcomes = () => ({ passed: 0, failed: [], skipped: [] });

/** The outcomes of several tallies together. */
export function addUp(tallies) {
  return {
    passed: tallies.reduce((sum, tally) => sum + tally.passed, 0),
    failed: tallies.flatMap((tally) => tally.failed),
    skipped: tallies.flatMap((tally) => tally.skipped),
  };
}

/** The closing line. */
export function closingLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed.length} failed, ${skipped.length} skipped`;
}

/**
 * Reads the output of `cargo test`. Failed tests are counted from each binary's summary as well as by name:
 * a binary that dies in the middle prints no summary, and what it did pass still counts.
 */
export function readCargoTest(output, ended) {
  const tally = noOutcomes();
  for (const line of output.split("\n")) {
    const test = /^test (.+) \.\.\. (ok|FAILED|ignored)(?:, (.*))?$/.exec(line);
    if (!test) continue;
    const [, name, outcome, reason] = test;
    if (outcome === "ok") tally.passed += 1;
    else if (outcome === "ignored") tally.skipped.push({ name, reason: reason ?? "marked as ignored" });
    else tally.failed.push({ name, reason: "failed" });
  }
  let passed = 0;
  let failed = 0;
  for (const [, ok, bad] of output.matchAll(/^test result: \w+\. (\d+) passed; (\d+) failed;/gm)) {
    passed += Number(ok);
    failed += Number(bad);
  }
  // Output of a test can tear its own line apart; the summary is then the better witness.
  tally.passed = Math.max(tally.passed, passed);
  while (tally.failed.length < failed)
    tally.failed.push({ name: "a Rust test", reason: "failed; see above" });
  return withCrash(tally, "cargo test", ended);
}

/**
 * Ignored Rust tests by what they need. A test that another one runs (`run … by name`) is no test of its own; a need
 * that nobody knows is a mistake, because its test would never run; other reasons are left as they are.
 */
export function byNeeds(ignored) {
  const groups = new Map();
  const sorted = { others: [], wrong: [] };
  for (const test of ignored) {
    const needs = namesIn(test.reason)?.sort();
    if (needs === undefined) {
      if (!/^run (in .+ )?by \w+$/.test(test.reason)) sorted.others.push(test);
      continue;
    }
    const unknown = unknownNames(needs);
    if (unknown.length > 0) {
      sorted.wrong.push({
        name: test.name,
        reason: `needs ${unknown.join(", ")}, which ts/bootstrap/needs.mjs does not know`,
      });
      continue;
    }
    const key = needs.join();
    groups.set(key, { needs, tests: [...(groups.get(key)?.tests ?? []), test] });
  }
  return { groups: [...groups.values()], ...sorted };
}

/** Reads the run of ignored tests; one that was asked for and did not show up counts as failed. */
export function readIgnored(output, ended, asked) {
  const tally = readCargoTest(output, ended);
  for (let missing = asked.length - tally.passed - tally.failed.length; missing > 0; missing--) {
    tally.failed.push({ name: "an ignored Rust test", reason: "was asked for and did not run" });
  }
  return tally;
}

/** Reads what vitest-report.mjs wrote; `text` is undefined when it wrote nothing. */
export function readVitest(text, ended) {
  let tally = noOutcomes();
  try {
    tally = { ...tally, ...JSON.parse(text) };
  } catch {
    tally.failed.push({ name: "vitest", reason: `ended without a report (${ended.text})` });
  }
  return withCrash(tally, "vitest", ended);
}

function withCrash(tally, name, ended) {
  if (!ended.ok && tally.failed.length === 0) tally.failed.push({ name, reason: ended.text });
  return tally;
}

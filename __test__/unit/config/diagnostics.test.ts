import { expect, test } from "vitest";
import { formatProblem, formatProblems } from "../../../ts/config/diagnostics.ts";
import type { Problem } from "../../../ts/config/problem.ts";

const problem: Problem = {
  severity: "error",
  path: "mode",
  message: "is wrong",
  found: '"x"',
  expected: '"y"',
  suggestion: "y",
  file: "c.toml",
  line: 2,
  column: 8,
};

test("a problem is one line: place, severity, key path, message, found, expected, suggestion", () => {
  expect(formatProblems([problem])).toBe(
    'c.toml:2:8: error: mode: is wrong (found "x", expected "y"); did you mean "y"?',
  );
});

test("parts that are not known are left out", () => {
  expect(formatProblems([{ severity: "warning", path: "", message: "is odd" }])).toBe("warning: is odd");
  expect(formatProblem({ ...problem, found: undefined as never })).toBe(
    'mode: is wrong (expected "y"); did you mean "y"?',
  );
});

const of = (text: string) => new Map([["c.toml", text]]);

test("with the source, the line and a caret stand below", () => {
  expect(
    formatProblems([problem], { sources: of('a = 1\r\nmode = "x"\r\n') })
      .split("\n")
      .slice(1),
  ).toEqual(['    2 | mode = "x"', "      |        ^"]);
});

test("the caret stays under its column after tabs and control characters", () => {
  const source = '\n\t\u001b\t= "x"';
  expect(
    formatProblems([{ ...problem, column: 6 }], { sources: of(source) })
      .split("\n")
      .slice(1),
  ).toEqual(['    2 |  \\u001b = "x"', "      |           ^"]);
});

test("a long line is shown around its column", () => {
  const source = `\n${"a".repeat(5000)}B${"c".repeat(5000)}`;
  const [, line = "", mark = ""] = formatProblems([{ ...problem, column: 5001 }], {
    sources: of(source),
  }).split("\n");
  expect(line.length).toBeLessThan(120);
  expect(line[mark.indexOf("^")]).toBe("B");
});

test("a place outside the source shows no line", () => {
  expect(formatProblems([problem], { sources: of("one line") }).split("\n")).toHaveLength(1);
});

test("colours appear when they are asked for alone", () => {
  expect(formatProblems([problem], { color: true })).toContain("\u001b[31merror\u001b[39m");
  expect(formatProblems([problem])).not.toContain("\u001b");
});

test("beyond the limit the rest is counted", () => {
  expect(formatProblems([problem, problem, problem], { limit: 1 }).split("\n")).toEqual([
    formatProblems([problem]),
    "... and 2 more",
  ]);
});

test("a file name cannot drive the terminal or forge a line", () => {
  expect(formatProblems([{ ...problem, file: "a\u001b[2J\nb" }])).toMatch(/^a\\u001b\[2J\\nb:2:8: error/);
});

/**
 * Each of the 26 known defects of Convey 0.3.5 is tested for by number: "defect 7" in the title of a test, or in a
 * comment that stands directly above it.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "../../..");
const DEFECTS = Array.from({ length: 26 }, (_, i) => i + 1);

/** A title, or the comment above a test: TypeScript's and Rust's. */
const TITLE = /\b(?:test|it|describe)(?:\.\w+(?:\([^)\n]*\))?)?\(\s*(["`])((?:(?!\1).)*)\1/g;
const COMMENT = /((?:^[ \t]*\/\/.*\n)+)[ \t]*(?:test|it|describe)[.(]/gm;
const RUST_COMMENT = /((?:^[ \t]*\/\/\/.*\n)+)(?:[ \t]*#\[.*\]\n)*[ \t]*fn /gm;
const RUST_NAME = /#\[test\]\n(?:[ \t]*#\[.*\]\n)*[ \t]*fn (\w+)/g;

function files(folder: string, ending: RegExp): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => ending.test(name))
    .map((name) => join(ROOT, folder, name));
}

/** What titles and comments of the tests in a text say. */
function words(text: string, rust: boolean): string[] {
  const found = (pattern: RegExp, group: number) =>
    [...text.matchAll(pattern)].map((match) => match[group] ?? "");
  if (!rust) return [...found(TITLE, 2), ...found(COMMENT, 1)];
  return [...found(RUST_COMMENT, 1).filter(() => text.includes("#[test]")), ...found(RUST_NAME, 1)];
}

function numbers(said: readonly string[]): Set<number> {
  const all = said.flatMap((text) => [...text.matchAll(/\bdefect[ _](\d+)(?!\d)/gi)]);
  return new Set(all.map((match) => Number(match[1])));
}

test("every defect of 0.3.5 has a test that names its number", () => {
  const said = [
    ...files("__test__", /\.test\.ts$/).flatMap((file) => words(readFileSync(file, "utf8"), false)),
    ...files("crates", /\.rs$/).flatMap((file) => words(readFileSync(file, "utf8"), true)),
  ];
  const named = numbers(said);
  expect(DEFECTS.filter((n) => !named.has(n))).toEqual([]);
  expect([...named].filter((n) => !DEFECTS.includes(n))).toEqual([]);
});

test("numbers are read from titles and from comments above tests, and from nowhere else", () => {
  const typescript = `
    test("a title; defect 3", () => {});
    // Proves defect 4.
    test("another", () => { const text = "defect 5"; });
    // A word about defect 6.
    const unrelated = 1;
    describe(\`defect 7: \${name}\`, () => {});
  `;
  expect([...numbers(words(typescript, false))].sort()).toEqual([3, 4, 7]);
  const rust = `
    /// The ancestor's defect 8.
    #[test]
    fn it_holds() {}
    #[test]
    fn defect_9_is_gone() { let text = "defect 10"; }
  `;
  expect([...numbers(words(rust, true))].sort()).toEqual([8, 9]);
});

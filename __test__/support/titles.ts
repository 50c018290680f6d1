/** The titles of all tests as they stand in the sources: vitest's, Rust's, and the names of the frame fixtures. */
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";

const ROOT = join(import.meta.dirname, "../..");
const FOLDERS = ["__test__", "crates"];

/** `test("…"`, and after a list of parameters `])("…"`. */
const TITLE = /(?:\b(?:test|it|describe)\b[^"'`]*?|\]\))\(\s*(["'`])((?:(?!\1)[\s\S])*?)\1/g;
const RUST = /#\[test\]\s*(?:#\[.*\]\s*)*fn (\w+)/g;
const FIXTURE = /^ {6}"name": "(.*)"/gm;

/** By file, relative to the checkout. */
export function allTitles(): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  for (const folder of FOLDERS) {
    for (const entry of readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      const titles = titlesIn(path);
      if (titles.length > 0) found.set(relative(ROOT, path), titles);
    }
  }
  return found;
}

/** The titles in a file; none where it is gone or no file of tests. */
export function titlesIn(path: string): string[] {
  if (/\.(ts|mjs)$/.test(path)) return captures(path, TITLE, 2);
  if (path.endsWith(".rs")) return captures(path, RUST, 1);
  return /\/fixtures\/\w+\.json$/.test(path) ? captures(path, FIXTURE, 1) : [];
}

function captures(path: string, pattern: RegExp, group: number): string[] {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return [];
  }
  return [...text.matchAll(pattern)].map((match) => match[group] ?? "");
}

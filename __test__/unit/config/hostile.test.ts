import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { formatProblems } from "../../../ts/config/diagnostics.ts";
import { loadConfigText } from "../../../ts/config/load.ts";
import { LEAST } from "./support.ts";

/** A small seeded generator (mulberry32), so that a failure repeats. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

// Anything but printable text and our own line breaks.
const ACTIVE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u;

async function expectVerdict(text: string): Promise<boolean> {
  const result = await loadConfigText(text, { file: "t.toml" });
  const problems = result.ok ? result.warnings : result.problems;
  if (!result.ok) expect(problems.some(({ severity }) => severity === "error")).toBe(true);
  const total = text.split(/\r\n|\n/).length;
  for (const { line = 1, column = 1 } of problems) {
    expect(line).toBeGreaterThanOrEqual(1);
    expect(line).toBeLessThanOrEqual(total);
    expect(column).toBeGreaterThanOrEqual(1);
  }
  for (const shown of [
    formatProblems(problems),
    formatProblems(problems, { sources: new Map([["t.toml", text]]) }),
  ]) {
    for (const line of shown.split("\n")) expect(ACTIVE.test(line), JSON.stringify(line)).toBe(false);
  }
  return result.ok;
}

test("random text is never more than problems", async () => {
  const next = random(1);
  const alphabet = "[]{}.,=\"'#\\ \n\r\tabcfrontends_019-+:é𝄞\u0000\u001b\u202e\ud800\ufeff";
  for (let round = 0; round < 3000; round++) {
    const text = Array.from({ length: next(60) }, () => alphabet[next(alphabet.length)]).join("");
    await expectVerdict(text);
  }
});

test("a sound file with some characters changed is never more than problems", async () => {
  const next = random(2);
  const sound = `mode = "proxy"\n${LEAST}weight = 3\n[stats]\nport = "7000"\n[log]\nlevel = "info"\n`;
  const alphabet = "[]{}.,=\"'#\\ \n\r\tazAZ_059-:é\u0000\u001b\u202e\ud800";
  let accepted = 0;
  for (let round = 0; round < 3000; round++) {
    const characters = [...sound];
    for (let change = 0; change <= next(3); change++) {
      characters.splice(next(characters.length), next(3), alphabet[next(alphabet.length)] as string);
    }
    if (await expectVerdict(characters.join(""))) accepted++;
  }
  // Both outcomes were met: the changes are neither harmless nor always fatal.
  expect(accepted).toBeGreaterThan(30);
  expect(accepted).toBeLessThan(2970);
});

test("sound TOML of random shape is never more than problems", async () => {
  const next = random(3);
  const keys = [
    "mode",
    "frontends",
    "backends",
    "servers",
    "addr",
    "backend",
    "stats",
    "port",
    "__proto__",
    "constructor",
    "x\u001by",
    "",
  ];
  const leaves = [
    "1",
    "-1",
    "0.5",
    "nan",
    "inf",
    "true",
    '""',
    '"127.0.0.1:80"',
    '"a\\u001bb"',
    "2020-01-01",
    "[]",
    "[[1], {a = 1}]",
    "9007199254740991",
  ];
  const value = (depth: number): string => {
    if (depth === 0 || next(3) === 0) return leaves[next(leaves.length)] as string;
    const names = [...new Set(Array.from({ length: next(5) }, () => keys[next(keys.length)] as string))];
    return `{ ${names.map((key) => `${JSON.stringify(key)} = ${value(depth - 1)}`).join(", ")} }`;
  };
  for (let round = 0; round < 700; round++) {
    const names = [...new Set(Array.from({ length: 1 + next(6) }, () => keys[next(keys.length)] as string))];
    await expectVerdict(names.map((key) => `${JSON.stringify(key)} = ${value(4)}\n`).join(""));
  }
});

test("objects of random shape are never more than problems", () => {
  const next = random(4);
  const keys = [
    "mode",
    "frontends",
    "backends",
    "web",
    "servers",
    "addr",
    "listen_addr",
    "backend",
    "stats",
    "port",
    "__proto__",
  ];
  const leaves = [
    undefined,
    null,
    0,
    -1,
    Number.NaN,
    1n,
    "",
    ":80",
    "web",
    true,
    Symbol("s"),
    () => 0,
    new Date(),
    new Map(),
    [],
    [[]],
  ];
  const value = (depth: number): unknown => {
    if (depth === 0 || next(3) === 0) return leaves[next(leaves.length)];
    const entries = Array.from(
      { length: next(6) },
      () => [keys[next(keys.length)], value(depth - 1)] as const,
    );
    return Object.fromEntries(entries);
  };
  for (let round = 0; round < 3000; round++) {
    const result = checkConfig(value(5));
    if (!result.ok) expect(result.problems.length).toBeGreaterThan(0);
  }
});

test("keys and values with control characters are escaped wherever they are shown", async () => {
  const text = `"a\\u001b[31m\\r\\nfake: ok" = 1\nmode = "\\u009b\\u2028\\u202e"\n${LEAST}`;
  const result = await loadConfigText(text, { file: "t.toml" });
  if (result.ok) throw new Error("accepted");
  expect(result.problems.map(({ path, found }) => [path, found])).toEqual([
    ['"a\\u001b[31m\\r\\nfake: ok"', undefined],
    ["mode", '"\\u009b\\u2028\\u202e"'],
  ]);
});

import { parse } from "smol-toml";
import { type AST, parseTOML } from "toml-eslint-parser";
import { expect, test } from "vitest";
import { scanToml } from "../../../ts/config/scan.ts";

/** Key path → offset of its key, as our scanner sees it. */
function scanned(text: string): string[] {
  const seen: string[] = [];
  scanToml(text, (path, { key, value }, last) => {
    if (last) seen.push(`${JSON.stringify(path)} ${key} ${value}`);
  });
  return seen;
}

/** The same by an independent parser, which builds the whole tree. */
function expected(text: string): string[] {
  const seen: string[] = [];
  const nameOf = (part: AST.TOMLBare | AST.TOMLQuoted) => (part.type === "TOMLBare" ? part.name : part.value);
  const note = (base: string[], key: AST.TOMLKey, value: number): string[] => {
    const path = [...base, ...key.keys.map(nameOf)];
    const last = key.keys.at(-1);
    if (last) seen.push(`${JSON.stringify(path)} ${last.range[0]} ${value}`);
    return path;
  };
  const pair = (base: string[], node: AST.TOMLKeyValue): void => {
    inside(note(base, node.key, node.value.range[0]), node.value);
  };
  const inside = (path: string[], value: AST.TOMLContentNode): void => {
    if (value.type === "TOMLInlineTable") for (const inner of value.body) pair(path, inner);
    if (value.type !== "TOMLArray") return;
    for (const [index, item] of value.elements.entries()) {
      const own = [...path, String(index)];
      seen.push(`${JSON.stringify(own)} ${item.range[0]} ${item.range[0]}`);
      inside(own, item);
    }
  };
  for (const node of parseTOML(text, { tomlVersion: "latest" }).body[0].body) {
    if (node.type === "TOMLKeyValue") pair([], node);
    else {
      const path = note([], node.key, node.range[0]);
      for (const inner of node.body) pair(path, inner);
    }
  }
  return seen;
}

test.each([
  ["plain", "a = 1\nb=2\n  c\t= 3"],
  ["dotted keys", "a . b.\"c d\". 'e f' = 1"],
  ["headers", "[a]\nb = 1\n[ a . c ]\nd = 1\n[[e]]\nf = 1\n[[e]]\nf = 2"],
  ["comments", "# x = 1\na = 1 # b = 2\n[t] # [u]\nc = 'x' # ]"],
  ["strings with brackets, quotes and comment signs", `a = "x # ] } \\" y = 1"\nb = 'c:\\'\nc = 1`],
  ["long strings", `a = """\nx = 1\n"" \\""" [y]\n"""\nb = '''\n'' z = 1'''\nc = 1`],
  ["long strings that end in quotes", `a = """x"""""\nb = '''y'''''\nc = """"""\nd = 1`],
  ["arrays", "a = [1, [2, 3], # ] x = 1\n 'b = 2', ]\nc = 1"],
  ["inline tables", 'a = { b = 1, c.d = { e = "}" }, "f" = [] }\ng = {}\nh = 1'],
  ["tables in arrays", "a = [{ b = 1 }, { c = { d = 2 } }]\ne = 1"],
  ["escaped keys", '"a\\u001b\\tb\\"\\\\" = 1\n"\\U0001d11e" = 2\n"" = 3'],
  ["dates, floats and signs", "a = 1979-05-27 07:32:00Z\nb = -1.5e+3\nc = +inf\nd = 07:32:00"],
  ["CRLF", '[a]\r\nb = "c"\r\nd = [\r\n1,\r\n]\r\ne = """\r\nx"""\r\nf = 1\r\n'],
  ["line ends in inline tables", "a = {\n b = 1, # }\n c = 2,\n}\nd = 1"],
])("places agree with an independent parser: %s", (_, text) => {
  parse(text);
  expect(scanned(text)).toEqual(expected(text));
});

test("places agree with an independent parser on random files", () => {
  let state = 7;
  const next = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return (state >> 8) % below;
  };
  const pick = <T>(from: readonly T[]): T => from[next(from.length)] as T;
  const gap = () => pick(["", " ", "\t", "  "]);
  const scalars = [
    "1",
    "true",
    '"a # b"',
    "'c] }'",
    '"\\""',
    '"""x\n"y"\n"""',
    "'''\n''z'''",
    "2020-01-01",
    "1.5",
    '""',
    "''",
  ];
  let names = 0;
  const key = () => {
    const own = `k${names++}`;
    return pick([own, `"${own} \\n"`, `'${own}.'`, `${own}${gap()}.${gap()}x`, `${own}."y z"`]);
  };
  const value = (depth: number): string => {
    const kind = depth === 0 ? 0 : next(4);
    if (kind === 2)
      return `[${gap()}${pick(["", "\n", " # c ]\n"])}${value(depth - 1)}, ${value(depth - 1)}${pick(["", ",", "\n"])}]`;
    if (kind === 3) {
      const members = Array.from({ length: next(4) }, () => `${key()}${gap()}=${gap()}${value(depth - 1)}`);
      return `{${gap()}${members.join(`${gap()},${gap()}`)}${gap()}}`;
    }
    return pick(scalars);
  };
  for (let round = 0; round < 500; round++) {
    const lines = Array.from({ length: next(12) }, () => {
      const kind = next(6);
      if (kind === 0) return `${gap()}[${gap()}${key()}${gap()}]${gap()}`;
      if (kind === 1) return `[[${key()}]] # [x]`;
      if (kind === 2) return pick(["", "# a = 1", "  "]);
      return `${gap()}${key()}${gap()}=${gap()}${value(2)}${gap()}`;
    });
    const text = lines.join(pick(["\n", "\r\n"]));
    parse(text);
    expect(scanned(text), text).toEqual(expected(text));
  }
});

test("of a key with very many parts the first ones are told", () => {
  const seen: number[] = [];
  scanToml(`${"a.".repeat(50_000)}a = { b = 1 }\nc = 1`, (path) => seen.push(path.length));
  expect(seen).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 1]);
});

test("a text that is not TOML ends the scan all the same", () => {
  for (const text of [
    "[",
    "]",
    "=",
    "a",
    "a=",
    "a={",
    "a={b",
    "a=[{",
    '"',
    "'''",
    'a="\\',
    ".",
    "a..b",
    "{}",
    "a={,=,}",
  ]) {
    expect(() => scanned(text)).not.toThrow();
  }
});

test("a large text is scanned in one pass", () => {
  const text = Array.from({ length: 50_000 }, (_, i) => `[b.p.s.s${i}]\naddr = "10.0.0.1:80"\n`).join("");
  const before = performance.now();
  let count = 0;
  scanToml(text, () => count++);
  expect(count).toBe(250_000);
  expect(performance.now() - before).toBeLessThan(2000);
});

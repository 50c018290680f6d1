/** Where each key and value of a TOML text stands. Slow next to parsing, so asked only about problems. */
import type { AST } from "toml-eslint-parser";
import type { Finding, KeyPath } from "./problem.ts";

export interface Position {
  /** From 1. */
  line: number;
  /** From 1. */
  column: number;
}

interface Place {
  key: Position;
  value: Position;
  /** Where the table begins, `[` or `{`, for what is missing in it. */
  table: Position;
}

type Places = Map<string, Place>;

/** Looks findings up; undefined for a text the position parser does not understand. */
export async function locator(text: string): Promise<(finding: Finding) => Position | undefined> {
  if (text.length > MAX_TEXT) return () => undefined;
  const { parseTOML } = await import("toml-eslint-parser");
  let places: Places;
  try {
    places = collect(parseTOML(text, { tomlVersion: "latest" }));
  } catch {
    return () => undefined;
  }
  return ({ at, point }) => {
    if (point === "table") return enclosing(places, at)?.table ?? { line: 1, column: 1 };
    const place = places.get(keyOf(at));
    if (place) return place[point];
    return enclosing(places, at)?.table ?? { line: 1, column: 1 };
  };
}

/** Characters of text; the syntax tree takes up to a kilobyte for each of them. */
const MAX_TEXT = 1 << 20;

/** Deeper than any key of ours; without it a key of 50,000 parts would take memory by the square of that. */
const MAX_DEPTH = 8;

const keyOf = (path: KeyPath): string => JSON.stringify(path.map(String));

function enclosing(places: Places, at: KeyPath): Place | undefined {
  for (let depth = at.length - 1; depth > 0; depth--) {
    const place = places.get(keyOf(at.slice(0, depth)));
    if (place) return place;
  }
  return undefined;
}

function collect(program: AST.TOMLProgram): Places {
  const places: Places = new Map();
  for (const node of program.body[0].body) {
    if (node.type === "TOMLKeyValue") {
      visitPair(places, [], node);
      continue;
    }
    // resolvedKey counts array members too; the names of the header are its last parts.
    visitHeader(places, node);
    for (const pair of node.body) visitPair(places, node.resolvedKey, pair);
  }
  return places;
}

/** `[a.b]` is the place of `b`; of `a` only when it is written nowhere else. */
function visitHeader(places: Places, node: AST.TOMLTable): void {
  const start = positionOf(node);
  const names = node.resolvedKey.filter((key) => typeof key === "string");
  const complete = names.length === node.key.keys.length;
  node.key.keys.slice(0, MAX_DEPTH).forEach((part, index) => {
    const last = index === node.key.keys.length - 1;
    const path = last && complete ? node.resolvedKey : names.slice(0, index + 1);
    const place = { key: positionOf(part), value: start, table: start };
    const key = keyOf(path);
    if (last || !places.has(key)) places.set(key, place);
    if (last && node.kind === "array" && !places.has(keyOf(names))) places.set(keyOf(names), place);
  });
}

function visitPair(places: Places, base: KeyPath, pair: AST.TOMLKeyValue): void {
  let path: KeyPath = base;
  const { keys } = pair.key;
  keys.slice(0, MAX_DEPTH).forEach((part, index) => {
    path = [...path, nameOf(part)];
    const own = positionOf(part);
    const key = keyOf(path);
    if (index === keys.length - 1) {
      const value = positionOf(pair.value);
      places.set(key, { key: own, value, table: value });
    } else if (!places.has(key)) {
      places.set(key, { key: own, value: own, table: own });
    }
  });
  if (path.length < MAX_DEPTH) visitValue(places, path, pair.value);
}

function visitValue(places: Places, path: KeyPath, value: AST.TOMLContentNode): void {
  if (value.type === "TOMLInlineTable") for (const pair of value.body) visitPair(places, path, pair);
}

const nameOf = (part: AST.TOMLBare | AST.TOMLQuoted): string =>
  part.type === "TOMLBare" ? part.name : part.value;

function positionOf(node: { loc: { start: { line: number; column: number } } }): Position {
  return { line: node.loc.start.line, column: node.loc.start.column + 1 };
}

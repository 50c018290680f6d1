/** From findings to lines and columns of the text they are about. */
import type { Finding, KeyPath } from "./problem.ts";
import { scanToml } from "./scan.ts";

export interface Position {
  /** From 1. */
  line: number;
  /** From 1, in UTF-16 code units. */
  column: number;
}

interface Place {
  key: number;
  value: number;
  /** Where the table begins, `[` or `{`, for what is missing in it. */
  table: number;
}

/** Looks findings up in an accepted TOML text; what stands nowhere is looked for in the table around it. */
export function locator(text: string, findings: readonly Finding[]): (finding: Finding) => Position {
  const places = placesOf(text, findings);
  const positionOf = positions(text);
  return ({ at, point }) => {
    const own = point === "table" ? undefined : places.get(keyOf(at));
    if (own && point !== "table") return positionOf(own[point]);
    return positionOf(enclosing(places, at)?.table ?? 0);
  };
}

const keyOf = (path: KeyPath): string => JSON.stringify(path.map(String));

function enclosing(places: ReadonlyMap<string, Place>, at: KeyPath): Place | undefined {
  for (let depth = at.length - 1; depth > 0; depth--) {
    const place = places.get(keyOf(at.slice(0, depth)));
    if (place) return place;
  }
  return undefined;
}

/** The places of what the findings are about and of the tables around it; a text has many more. */
function placesOf(text: string, findings: readonly Finding[]): Map<string, Place> {
  const wanted = new Set<string>();
  for (const { at } of findings) {
    for (let depth = 1; depth <= at.length; depth++) wanted.add(keyOf(at.slice(0, depth)));
  }
  const places = new Map<string, Place>();
  const final = new Set<string>();
  scanToml(text, (path, { key, value }, last) => {
    const name = keyOf(path);
    if (!wanted.has(name) || final.has(name)) return;
    // `[a.b]` is the place of `b`, and of `a` only as long as it is written nowhere by itself.
    if (last) final.add(name);
    else if (places.has(name)) return;
    const header = text[value] === "[" && value < key;
    places.set(name, last || header ? { key, value, table: value } : { key, value: key, table: key });
  });
  return places;
}

/** Lines and columns of offsets, by binary search in the line starts. */
function positions(text: string): (offset: number) => Position {
  const starts = [0];
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
  return (offset) => {
    let low = 0;
    let high = starts.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((starts[middle] as number) <= offset) low = middle;
      else high = middle;
    }
    return { line: low + 1, column: offset - (starts[low] as number) + 1 };
  };
}

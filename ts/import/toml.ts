/** A draft as TOML, with comments that say which line each part came from. */
import { stringify } from "smol-toml";
import { inert } from "../config/problem.ts";
import type { Table, Value } from "./draft.ts";

/** In the order in which people read them; others follow. */
const FIRST = ["frontends", "backends"];

/** Ends in a newline; "" for a draft with nothing in it. `program` is whose file it was, as people call it. */
export function draftToToml(root: Table, program: string): string {
  const parts: string[] = [];
  const keys = new Set([...FIRST, ...root.tables.keys()]);
  for (const key of keys) {
    const table = root.tables.get(key);
    if (table) print([key], table, program, parts);
  }
  return parts.length === 0 ? "" : `${parts.join("\n\n")}\n`;
}

function print(path: readonly string[], table: Table, program: string, parts: string[]): void {
  const lines: string[] = [];
  for (const [key, { value, line }] of table.values) {
    lines.push(`${pair(key, value)} # ${line === undefined ? `${program}'s default` : `line ${line}`}`);
  }
  if (path.at(-1) === "servers") {
    for (const [name, server] of table.tables) lines.push(`${bare(name)} = ${inline(server)}`);
  }
  if (lines.length > 0) {
    const origin =
      table.line === undefined || table.what === "" ? [] : [`# line ${table.line}: ${inert(table.what)}`];
    parts.push([...origin, `[${path.map(bare).join(".")}]`, ...lines].join("\n"));
  }
  if (path.at(-1) === "servers") return;
  for (const [key, inner] of table.tables) print([...path, key], inner, program, parts);
}

function inline(server: Table): string {
  const pairs = [...server.values].map(([key, { value }]) => pair(key, value));
  return `{ ${pairs.join(", ")} }${server.line === undefined ? "" : ` # line ${server.line}`}`;
}

const pair = (key: string, value: Value): string => stringify({ [key]: value }).trimEnd();

/** A key, quoted where it has to be. */
const bare = (key: string): string => pair(key, 0).replace(/ = 0$/, "");

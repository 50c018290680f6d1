/** Configurations of other programs as TOML of Convey: a first form, and a list of what it lacks. */
import { type ImportProblem, Leftovers, type Table } from "./draft.ts";
import { fromHaproxy } from "./haproxy.ts";
import { fromNginx } from "./nginx.ts";
import { settle } from "./settle.ts";
import { draftToToml } from "./toml.ts";

export type { ImportProblem } from "./draft.ts";

export const PROGRAMS = ["haproxy", "nginx"] as const;
export type Program = (typeof PROGRAMS)[number];

const NAMES = { haproxy: "HAProxy", nginx: "nginx" } as const;

/** Larger files are refused. */
export const MAX_IMPORT_BYTES = 1024 * 1024;

export interface Imported {
  /** A valid configuration; "" when nothing was understood that makes one. */
  toml: string;
  /** What was left, in the order of the file. */
  problems: ImportProblem[];
}

/** Never throws, whatever the text is. */
export function importText(text: string, from: Program): Imported {
  const left = new Leftovers(text);
  const read: Record<Program, (text: string, left: Leftovers) => Table> = {
    haproxy: fromHaproxy,
    nginx: fromNginx,
  };
  const draft = read[from](text, left);
  settle(draft, left);
  const toml = draftToToml(draft, NAMES[from]);
  if (toml === "")
    left.add(1, "nothing of the file makes a configuration: no TCP or UDP proxy in it was understood");
  return { toml, problems: left.list() };
}

/** Whose file it is; undefined when it looks like neither. */
export function programOf(text: string): Program | undefined {
  // Sections stand alone at the start of a line with HAProxy; with nginx every block has a brace.
  if (/^[ \t]*(stream|http|events|upstream|server)\b[^;#\n]*\{/m.test(text)) return "nginx";
  if (/^[ \t]*(global|defaults|frontend|backend|listen)\b[^;{}\n]*$/m.test(text)) return "haproxy";
  return /;[ \t]*(#.*)?$/m.test(text) ? "nginx" : undefined;
}

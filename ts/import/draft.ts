/**
 * A configuration on its way from another program's file: tables and values, each with the line it came from, and
 * what was left behind.
 */
import { inert } from "../config/problem.ts";

/** Something of the file that was not taken over, or not as it stands there. */
export interface ImportProblem {
  /** From 1. */
  line: number;
  /** What stands there, inert and cut. */
  text: string;
  message: string;
}

type Scalar = string | number | boolean;
export type Value = Scalar | readonly Scalar[];

interface Entry {
  value: Value;
  /** Where it came from; a default of the other program has none. */
  line: number | undefined;
}

/** A table of the configuration, in the order in which it is printed. */
export class Table {
  readonly values = new Map<string, Entry>();
  readonly tables = new Map<string, Table>();

  readonly line: number | undefined;
  /** Where it comes from, such as `frontend web`. */
  readonly what: string;

  constructor(line: number | undefined, what = "") {
    this.line = line;
    this.what = what;
  }

  /** Undefined is left out. Without a line it is a default of the other program. */
  set(key: string, value: Value | undefined, line?: number): void {
    if (value !== undefined) this.values.set(key, { value, line });
  }

  /** The table of this name, which is made if there is none. */
  table(key: string, line?: number, what?: string): Table {
    const known = this.tables.get(key);
    if (known) return known;
    const made = new Table(line, what);
    this.tables.set(key, made);
    return made;
  }

  /** The configuration as `judge()` takes it. */
  toObject(): Record<string, unknown> {
    const object = Object.create(null) as Record<string, unknown>;
    for (const [key, { value }] of this.values) object[key] = value;
    for (const [key, table] of this.tables) object[key] = table.toObject();
    return object;
  }
}

/** Characters of a line that are shown. */
const SHOWN = 100;

/** What is left behind, with the lines of the file to show. */
export class Leftovers {
  readonly #lines: readonly string[];
  readonly #problems: ImportProblem[] = [];

  constructor(text: string) {
    this.#lines = text.split(/\r\n|\n/);
  }

  add(line: number, message: string): void {
    const whole = (this.#lines[line - 1] ?? "").trim();
    const shown = whole.length > SHOWN ? `${whole.slice(0, SHOWN - 3)}...` : whole;
    this.#problems.push({ line, text: inert(shown), message: inert(message) });
  }

  /** In the order of the file. */
  list(): ImportProblem[] {
    return [...this.#problems].sort((a, b) => a.line - b.line);
  }
}

/** Gives what has names a name that is valid and free, and tells when it is not the one that stands in the file. */
export class Names {
  readonly #taken = new Set<string>();
  readonly #next = new Map<string, number>();

  /** `told` is called with the name that was taken instead. */
  take(wanted: string, told?: (name: string) => void): string {
    const valid = validName(wanted);
    let name = valid;
    for (let n = this.#next.get(valid) ?? 2; this.#taken.has(name); n++) {
      name = `${valid}_${n}`;
      this.#next.set(valid, n + 1);
    }
    this.#taken.add(name);
    if (name !== wanted) told?.(name);
    return name;
  }
}

function validName(wanted: string): string {
  const name = inert(wanted.replace(/[/\p{Cc}\p{Cs}]/gu, "_")).slice(0, 200);
  if (name === "" || name === "." || name === "..") return "unnamed";
  return name === "__proto__" ? "proto" : name;
}

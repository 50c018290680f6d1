/**
 * Further files that belong to a configuration: `include` at the top of the main file. What they hold is put together by
 * tables; nothing may be said twice. Included files include no others.
 */
import { readdir } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, resolve } from "node:path";
import type { KeyPath } from "./problem.ts";
import { isTable, type Table } from "./view.ts";

/** Files that a configuration may have besides the main one. */
export const MAX_INCLUDED = 256;

/** A file that is to be read, and the entry of `include` that named it. */
export interface Named {
  /** As it is told: relative where the main file is. */
  file: string;
  entry: number;
  /** Whether a pattern found it, which does not mind when it is gone or is no file. */
  found: boolean;
}

/** What is wrong with an entry of `include`. */
export interface BadEntry {
  entry: number;
  message: string;
}

/** The entries, or undefined for what the schema refuses. */
export function entriesOf(include: unknown): readonly string[] | undefined {
  if (typeof include === "string") return include === "" ? undefined : [include];
  if (!Array.isArray(include) || include.length > 64) return undefined;
  return include.every((entry) => typeof entry === "string" && entry !== "") ? include : undefined;
}

/** The files that `entries` of the main file `main` stand for, each once, those of a pattern in the order of their names. */
export async function filesOf(
  main: string,
  entries: readonly string[],
): Promise<{ files: Named[]; bad: BadEntry[] }> {
  const files: Named[] = [];
  const bad: BadEntry[] = [];
  const known = new Set([resolve(main)]);
  for (const [entry, path] of entries.entries()) {
    const place = isAbsolute(path) ? path : join(dirname(main), path);
    const [folder, name] = [dirname(place), basename(place)];
    if (/[*?]/.test(isAbsolute(path) ? folder : dirname(path))) {
      bad.push({
        entry,
        message: "has * or ? in the name of a folder, and they are for names of files alone",
      });
      continue;
    }
    const pattern = /[*?]/.test(name);
    let names = [name];
    if (pattern) {
      const listed = await matching(folder, name);
      if (typeof listed === "string") {
        bad.push({ entry, message: listed });
        continue;
      }
      names = listed;
    } else if (resolve(place) === resolve(main)) {
      bad.push({ entry, message: "is the file itself" });
      continue;
    }
    for (const own of names) {
      const file = join(folder, own);
      if (known.has(resolve(file))) continue;
      known.add(resolve(file));
      files.push({ file, entry, found: pattern });
    }
    if (files.length > MAX_INCLUDED) {
      bad.push({ entry, message: `makes more than ${MAX_INCLUDED} files, the most that may be included` });
      return { files: [], bad };
    }
  }
  return { files, bad };
}

/** The folders in which files may come and go. */
export function foldersOf(main: string, entries: readonly string[]): string[] {
  const folder = (path: string): string => resolve(dirname(resolve(main)), dirname(path));
  return [...new Set(entries.map(folder))];
}

/** Names in a folder that fit, sorted; what is wrong with the folder. One that does not exist has none. */
async function matching(folder: string, pattern: string): Promise<string[] | string> {
  try {
    const all = await readdir(folder, { withFileTypes: true });
    return (
      all
        .filter((entry) => !entry.isDirectory())
        .map(({ name }) => name)
        // As in a shell: names that begin with a dot are asked for by a dot.
        .filter((name) => (!name.startsWith(".") || pattern.startsWith(".")) && fits(name, pattern))
        .sort()
    );
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    return `cannot be looked for: ${code === "EACCES" ? "permission denied" : (cause as Error).message}`;
  }
}

/** Whether `*` and `?` of a pattern fit a name; the time is bounded by the product of their lengths. */
function fits(name: string, pattern: string): boolean {
  let [at, from] = [0, 0];
  // Behind the last star and where it began to stand for something: it is made longer when the rest does not fit.
  let [star, resumed] = [-1, 0];
  while (at < name.length) {
    if (pattern[from] === "*") {
      star = ++from;
      resumed = at;
    } else if (from < pattern.length && (pattern[from] === "?" || pattern[from] === name[at])) {
      at++;
      from++;
    } else if (star >= 0) {
      from = star;
      at = ++resumed;
    } else return false;
  }
  return /^\**$/.test(pattern.slice(from));
}

/** Something that two files say. */
export interface Twice {
  at: KeyPath;
  what: string;
}

/**
 * Puts the tables of `more` into `into`, which is changed. Members of `frontends`, `backends` and a backend's `servers`
 * and the keys of other tables come together; what is there already is told and left.
 */
export function mergeInto(into: Record<string, unknown>, more: Table): Twice[] {
  const twice: Twice[] = [];
  merge(into, more, []);
  return twice;

  function merge(table: Record<string, unknown>, from: Table, path: KeyPath): void {
    for (const [key, value] of Object.entries(from)) {
      const at = [...path, key];
      const known = Object.hasOwn(table, key) ? table[key] : undefined;
      if (known === undefined) define(table, key, structuredCopy(value));
      else if (isPlain(known) && isPlain(value) && !isWhole(at, known, value)) merge(known, value, at);
      else twice.push({ at, what: kindOf(at) });
    }
  }
}

const isPlain = (value: unknown): value is Record<string, unknown> =>
  isTable(value) && !(value instanceof Date);

/** Whether a table is one thing, which cannot be in two files; a backend may get servers from another file. */
function isWhole(at: KeyPath, known: Table, value: Table): boolean {
  if (at[0] === "frontends") return at.length > 1;
  if (at[0] !== "backends") return false;
  if (at.length === 2)
    return [known, value].every((table) => Object.keys(table).some((key) => key !== "servers"));
  return at.length > 3;
}

function kindOf(at: KeyPath): string {
  if (at[0] === "frontends" && at.length === 2) return "frontend";
  if (at[0] === "backends" && at.length === 2) return "backend";
  if (at[0] === "backends" && at[2] === "servers" && at.length === 4) return "server";
  return "key";
}

/** Tables are copied, so that merging changes no file's own. */
function structuredCopy(value: unknown): unknown {
  if (!isPlain(value)) return value;
  const copy: Record<string, unknown> = {};
  for (const [key, child] of Object.entries(value)) define(copy, key, structuredCopy(child));
  return copy;
}

/** A plain assignment to `__proto__` would change the object's prototype. */
function define(table: Record<string, unknown>, key: string, value: unknown): void {
  Object.defineProperty(table, key, { value, enumerable: true, writable: true, configurable: true });
}

/** The main file with the files it includes, put together. */
import { createHash } from "node:crypto";
import type { Environment } from "./environment.ts";
import { whole } from "./file-problems.ts";
import { entriesOf, filesOf, mergeInto } from "./include.ts";
import { valueAt } from "./issues.ts";
import { locator } from "./positions.ts";
import { describeValue, type Finding, formatPath, inert, type Problem } from "./problem.ts";
import { MAX_FILE_BYTES, readFile, type SourceFile } from "./source-file.ts";
import { error } from "./view.ts";

/** What a configuration is made of. */
export interface Gathered {
  /** The main file first. */
  all: [SourceFile, ...SourceFile[]];
  /** What they say together, values from the environment in place. */
  input: Record<string, unknown>;
  /** The same as it is written; where files were included. */
  raw?: Record<string, unknown>;
  /** What is wrong with their being together, in the file that says it. */
  findings: ReadonlyMap<SourceFile, Finding[]>;
  /** Files that cannot be had. */
  problems: Problem[];
  /** The entries of `include`. */
  entries: readonly string[];
}

/** Reads what `main` includes. Never rejects. */
export async function gather(
  main: SourceFile,
  env: Environment,
  timeoutMs: number | undefined,
): Promise<Gathered> {
  const { include, ...own } = main.expanded.input;
  const entries = entriesOf(include);
  const empty = { findings: new Map(), problems: [], entries: [] };
  // What is no list of paths is refused by the schema.
  if (entries === undefined) {
    return { all: [main], input: include === undefined ? own : main.expanded.input, ...empty };
  }
  const name = main.name ?? "";
  const { files, bad } = await filesOf(name, entries);
  const at = (entry: number) => (Array.isArray(include) ? ["include", entry] : ["include"]);
  const ofMain = bad.map(({ entry, message }) =>
    error(at(entry), "value", message, { found: describeValue(entries[entry]) }),
  );
  const findings = new Map<SourceFile, Finding[]>([[main, ofMain]]);
  const problems: Problem[] = [];
  const all: Gathered["all"] = [main];
  let bytes = main.bytes.length;
  for (const { file, entry, found } of files) {
    const read = await readFile(file, { timeoutMs }, env);
    if (!read.ok) {
      // Gone since the folder was read.
      if (found && read.problem.message === "no such file") continue;
      if (read.text !== undefined || found) problems.push(read.problem);
      else {
        const message = `names a file that cannot be included: ${inert(file)} ${read.problem.message}`;
        ofMain.push(error(at(entry), "value", message, { found: describeValue(entries[entry]) }));
      }
      continue;
    }
    bytes += read.file.bytes.length;
    if (bytes > MAX_FILE_BYTES) {
      const most = `${MAX_FILE_BYTES / 1024 / 1024} MiB, the most a configuration may have`;
      problems.push(whole(file, `makes the files larger together than ${most}`));
      break;
    }
    all.push(read.file);
  }
  return { all, ...together(all, own, findings), findings, problems, entries };
}

/** Puts the files together, and notes in `findings` what two of them say. */
function together(
  all: Gathered["all"],
  own: Record<string, unknown>,
  findings: Map<SourceFile, Finding[]>,
): Pick<Gathered, "input" | "raw"> {
  const [main, ...included] = all;
  const [input, raw] = [{}, {}];
  const { include: _, ...rawOwn } = main.raw;
  mergeInto(input, own);
  mergeInto(raw, rawOwn);
  for (const [index, file] of included.entries()) {
    const { include, ...more } = file.expanded.input;
    const noted: Finding[] = [];
    if (include !== undefined) {
      noted.push(error(["include"], "key", "only the main file may include others"));
    }
    for (const { at, what } of mergeInto(input, more)) {
      const first = all.slice(0, index + 1).find((other) => valueAt(other.raw, at) !== undefined) ?? main;
      const finding = error(at, "key", "");
      const { line, column } = locator(first.text, [finding])(finding);
      const place = `${inert(first.name ?? "")}:${line}:${column}`;
      noted.push(
        error(at, "key", `this ${what} is in ${place} too`, { expected: `${formatPath(at)} in one file` }),
      );
    }
    mergeInto(raw, Object.fromEntries(Object.entries(file.raw).filter(([key]) => key !== "include")));
    findings.set(file, noted);
  }
  return { input, raw };
}

/** Of a configuration of several files: what the main one hashes to, and the names and hashes of the others. */
export function combinedHash(
  main: string,
  included: readonly (readonly [name: string, hash: string])[],
): string {
  return createHash("sha256")
    .update(JSON.stringify([main, included]))
    .digest("hex");
}

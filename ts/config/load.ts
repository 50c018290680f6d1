/**
 * Loads a configuration from a file or a text: the one path that running, validating, showing and reloading
 * share. Whatever the file holds, the outcome is a checked configuration or problems with their places.
 */
import { createHash } from "node:crypto";
import { resolve } from "node:path";
import { judge, problemOf } from "./check.ts";
import { type Environment, tellExpanded } from "./environment.ts";
import { whole, writable } from "./file-problems.ts";
import { combinedHash, type Gathered, gather } from "./gather.ts";
import { ELSEWHERE, type HostFacts, hereFacts, hostFacts } from "./host.ts";
import { valueAt } from "./issues.ts";
import { applyOverrides, type Overrides, originOf } from "./overrides.ts";
import { locator } from "./positions.ts";
import type { Finding, Problem } from "./problem.ts";
import type { Config } from "./schema.ts";
import { parseFile, readFile, type SourceFile } from "./source-file.ts";

export { MAX_FILE_BYTES } from "./source-file.ts";

export interface Source {
  file?: string;
  /** SHA-256 of the content, that of included files with it, hexadecimal. */
  hash: string;
  /** Whether it can be read again and watched: a pipe gives its content once. */
  regular: boolean;
  /** Names of the environment variables that it refers to. */
  variables: readonly string[];
}

export type LoadResult =
  | {
      ok: true;
      config: Config;
      warnings: Problem[];
      source: Source;
      text: string;
      /** Texts by the names of their files, for showing lines of them. */
      texts: ReadonlyMap<string, string>;
    }
  /** Errors first, then warnings; `text` when the file could be read, for showing lines of it. */
  | { ok: false; problems: Problem[]; text?: string; texts?: ReadonlyMap<string, string> };

export interface LoadOptions {
  /** Judge it for this host, as a start would: its own addresses, the token. On by default. */
  host?: boolean;
  /** How long reading may take, 0 for ever; ten seconds unless given. */
  timeoutMs?: number;
  /** What `${NAME}` in its values stands for; that of this process unless given. */
  env?: Environment;
}

/** Loads a file and what it includes. Never rejects: a file that cannot be read is a problem. */
export async function loadConfigFile(
  file: string,
  overrides: Overrides = [],
  { host = true, timeoutMs, env = process.env }: LoadOptions = {},
): Promise<LoadResult> {
  const read = await readFile(file, { timeoutMs, anything: true }, env);
  if (!read.ok) return refuse(read.problem, file, read.text);
  const files = await gather(read.file, env, timeoutMs);
  const result = await judgeFor(files, overrides, host);
  const warnings = files.all.flatMap(({ name, regular, mode }) =>
    regular && (mode & 0o022) !== 0 ? [writable(name ?? "", mode)] : [],
  );
  return result.ok
    ? { ...result, warnings: [...result.warnings, ...warnings] }
    : { ...result, problems: [...result.problems, ...warnings] };
}

/** What a text is judged with. */
export interface TextOptions {
  /** The name for messages. */
  file?: string | undefined;
  overrides?: Overrides;
  /** What `${NAME}` in its values stands for; that of this process unless given. */
  env?: Environment | undefined;
}

/** Loads a text, which includes no files. With `host` it is judged for this host, as a start would. */
export async function loadConfigText(
  text: string,
  { file, overrides = [], env = process.env, host = false }: TextOptions & { host?: boolean } = {},
): Promise<LoadResult> {
  const read = parseFile(text, file, env);
  return read.ok ? judgeFor(alone(read.file), overrides, host) : refuse(read.problem, file, read.text);
}

/** As a program would hand it over: judged against this host's addresses, without looking for the token. */
export function parseConfigText(
  text: string,
  { file, overrides = [], env = process.env }: TextOptions = {},
): LoadResult {
  const read = parseFile(text, file, env);
  if (!read.ok) return refuse(read.problem, file, read.text);
  return judgeFiles(alone(read.file), overrides, hereFacts());
}

/** A text by itself. */
function alone(file: SourceFile): Gathered {
  return { all: [file], input: file.expanded.input, findings: new Map(), problems: [], entries: [] };
}

async function judgeFor(files: Gathered, overrides: Overrides, host: boolean): Promise<LoadResult> {
  const facts = host ? await hostFacts(applyOverrides(files.input, overrides)) : ELSEWHERE;
  return judgeFiles(files, overrides, facts);
}

function judgeFiles(files: Gathered, overrides: Overrides, facts: HostFacts): LoadResult {
  const [main] = files.all;
  const texts = new Map(files.all.map(({ name, text }) => [name ?? "", text]));
  const own = files.all.flatMap((file) => [...file.expanded.findings, ...(files.findings.get(file) ?? [])]);
  if (Object.keys(files.input).length === 0 && own.length === 0 && files.problems.length === 0) {
    const message = main.text.trim() === "" ? "is empty" : "has nothing but comments";
    const expected = "at least [frontends.<name>] and [backends.<name>]; see samples/minimal.toml";
    return { ok: false, problems: [{ ...whole(main.name, message), expected }], text: main.text, texts };
  }
  const { config, findings } = judge(files.input, overrides, facts);
  const expanded = {
    findings: files.all.flatMap((file) => file.expanded.findings),
    written: new Map(files.all.flatMap((file) => [...file.expanded.written])),
  };
  const told = tellExpanded(findings, expanded);
  const problems = [...files.problems, ...placed(told, files, overrides)].sort(
    (a, b) => Number(a.severity === "warning") - Number(b.severity === "warning"),
  );
  if (config === undefined || problems.some(({ severity }) => severity === "error")) {
    return { ok: false, problems, text: main.text, texts };
  }
  return {
    ok: true,
    config,
    warnings: problems,
    source: {
      ...(main.name === undefined ? {} : { file: main.name }),
      hash: hashOf(files),
      regular: main.regular,
      variables: [...new Set(files.all.flatMap(({ expanded: { variables } }) => [...variables]))],
    },
    text: main.text,
    texts,
  };
}

/** That of the file alone where it includes none. */
function hashOf({ all: [main, ...included], entries }: Gathered): string {
  const hash = createHash("sha256").update(main.bytes);
  if (entries.length === 0) return hash.digest("hex");
  return combinedHash(
    hash.digest("hex"),
    included.map(({ name = "", bytes }) => [resolve(name), createHash("sha256").update(bytes).digest("hex")]),
  );
}

/** Every finding in the file that says it, with its place there. */
function placed(findings: readonly Finding[], files: Gathered, overrides: Overrides): Problem[] {
  const ofFile = new Map<SourceFile, Finding[]>(
    files.all.map((file) => [file, [...file.expanded.findings, ...(files.findings.get(file) ?? [])]]),
  );
  const elsewhere: Problem[] = [];
  for (const finding of findings) {
    const origin = originOf(finding, overrides, files.input);
    if (origin === undefined) ofFile.get(home(finding, files.all))?.push(finding);
    else elsewhere.push(problemOf(finding, origin));
  }
  // In the order of the files and of places in them; what has no place comes first.
  return [
    ...elsewhere,
    ...[...ofFile].flatMap(([{ name, text }, all]) => {
      if (all.length === 0) return [];
      const locate = locator(text, all);
      return all
        .map(
          (finding): Problem => ({
            ...problemOf(finding),
            ...(name === undefined ? {} : { file: name }),
            ...locate(finding),
          }),
        )
        .sort((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0));
    }),
  ];
}

/** The file that has most of the way to what a finding is about. */
function home({ at }: Finding, all: Gathered["all"]): SourceFile {
  for (let depth = at.length; depth > 0; depth--) {
    const path = at.slice(0, depth);
    const has = all.find(({ raw }) => valueAt(raw, path) !== undefined);
    if (has) return has;
  }
  return all[0];
}

function refuse(problem: Problem, file: string | undefined, text?: string): LoadResult {
  return text === undefined
    ? { ok: false, problems: [problem] }
    : { ok: false, problems: [problem], text, texts: new Map([[file ?? "", text]]) };
}

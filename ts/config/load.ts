/**
 * Loads a configuration from a file or a text: the one path that running, validating, showing and reloading
 * share. Whatever the file holds, the outcome is a checked configuration or problems with their places.
 */
import { isUtf8 } from "node:buffer";
import { createHash } from "node:crypto";
import { parse, TomlError } from "smol-toml";
import { judge, problemOf } from "./check.ts";
import { ELSEWHERE, type HostFacts, hereFacts, hostFacts } from "./host.ts";
import { applyOverrides, type Overrides, originOf } from "./overrides.ts";
import { locator } from "./positions.ts";
import { inert, type Problem } from "./problem.ts";
import { readSmallFile, type SmallFile } from "./read.ts";
import type { Config } from "./schema.ts";

export interface Source {
  file?: string;
  /** SHA-256 of the content, hexadecimal. */
  hash: string;
  /** Whether it can be read again and watched: a pipe gives its content once. */
  regular: boolean;
}

export type LoadResult =
  | { ok: true; config: Config; warnings: Problem[]; source: Source; text: string }
  /** Errors first, then warnings; `text` when the file could be read, for showing lines of it. */
  | { ok: false; problems: Problem[]; text?: string };

/** Larger files are refused: a configuration of 100,000 servers has a tenth of this. */
export const MAX_FILE_BYTES = 16 * 1024 * 1024;

export interface LoadOptions {
  /** Judge it for this host, as a start would: its own addresses, the token. On by default. */
  host?: boolean;
  /** How long reading may take, 0 for ever; ten seconds unless given. */
  timeoutMs?: number;
}

/** Loads a file. Never rejects: a file that cannot be read is a problem. */
export async function loadConfigFile(
  file: string,
  overrides: Overrides = [],
  { host = true, timeoutMs }: LoadOptions = {},
): Promise<LoadResult> {
  let content: SmallFile;
  try {
    content = await readSmallFile(file, MAX_FILE_BYTES, { timeoutMs, anything: true });
  } catch (cause) {
    return refuse(unreadable(file, cause));
  }
  if (content.bytes.length > MAX_FILE_BYTES) {
    return refuse(
      whole(file, `is larger than ${MAX_FILE_BYTES / 1024 / 1024} MiB, the most a configuration may have`),
    );
  }
  const result = isUtf8(content.bytes)
    ? await judgeText(content.bytes.toString("utf8"), content, file, overrides, host)
    : refuse(notUtf8(content.bytes, file));
  if (!content.regular || (content.mode & 0o022) === 0) return result;
  const warning = writable(file, content.mode);
  return result.ok
    ? { ...result, warnings: [...result.warnings, warning] }
    : { ...result, problems: [...result.problems, warning] };
}

/** Loads a text; `file` is the name for messages. With `host` it is judged for this host, as a start would. */
export async function loadConfigText(
  text: string,
  options: { file?: string; overrides?: Overrides; host?: boolean } = {},
): Promise<LoadResult> {
  return judgeText(
    text,
    { bytes: Buffer.from(text), regular: false },
    options.file,
    options.overrides ?? [],
    options.host ?? false,
  );
}

/** As a program would hand it over: judged against this host's addresses, without looking for the token. */
export function parseConfigText(
  text: string,
  { file, overrides = [] }: { file?: string | undefined; overrides?: Overrides } = {},
): LoadResult {
  const read = readToml(text, file);
  const content = { bytes: Buffer.from(text), regular: false };
  return read.ok ? judgeToml(read, content, file, overrides, hereFacts()) : read.refused;
}

async function judgeText(
  raw: string,
  content: Content,
  file: string | undefined,
  overrides: Overrides,
  host: boolean,
): Promise<LoadResult> {
  const read = readToml(raw, file);
  if (!read.ok) return read.refused;
  const facts = host ? await hostFacts(applyOverrides(read.input, overrides)) : ELSEWHERE;
  return judgeToml(read, content, file, overrides, facts);
}

type Content = Pick<SmallFile, "bytes" | "regular">;
type Toml = { ok: true; input: Record<string, unknown>; text: string };

function readToml(raw: string, file: string | undefined): Toml | { ok: false; refused: LoadResult } {
  const text = raw.startsWith("\ufeff") ? raw.slice(1) : raw;
  let input: Record<string, unknown>;
  try {
    input = parse(text);
  } catch (cause) {
    return { ok: false, refused: { ok: false, problems: [syntaxProblem(cause, file)], text } };
  }
  if (Object.keys(input).length === 0) {
    const message = text.trim() === "" ? "is empty" : "has nothing but comments";
    const expected = "at least [frontends.<name>] and [backends.<name>]; see samples/minimal.toml";
    return { ok: false, refused: { ok: false, problems: [{ ...whole(file, message), expected }], text } };
  }
  return { ok: true, input, text };
}

function judgeToml(
  { input, text }: Toml,
  { bytes, regular }: Content,
  file: string | undefined,
  overrides: Overrides,
  facts: HostFacts,
): LoadResult {
  const { config, findings } = judge(input, overrides, facts);
  const problems = findings.length === 0 ? [] : placed(findings, text, file, input, overrides);
  if (config === undefined) return { ok: false, problems, text };
  const hash = createHash("sha256").update(bytes).digest("hex");
  return {
    ok: true,
    config,
    warnings: problems,
    source: { ...(file === undefined ? {} : { file }), hash, regular },
    text,
  };
}

function placed(
  findings: ReturnType<typeof judge>["findings"],
  text: string,
  file: string | undefined,
  input: unknown,
  overrides: Overrides,
): Problem[] {
  const locate = locator(text, findings);
  const problems = findings.map((finding): Problem => {
    const origin = originOf(finding, overrides, input);
    if (origin !== undefined) return problemOf(finding, origin);
    return { ...problemOf(finding), ...named(file), ...locate(finding) };
  });
  // In the order of the file within errors and within warnings; what has no place comes first.
  return problems.sort(
    (a, b) =>
      Number(a.severity === "warning") - Number(b.severity === "warning") ||
      (a.line ?? 0) - (b.line ?? 0) ||
      (a.column ?? 0) - (b.column ?? 0),
  );
}

function syntaxProblem(cause: unknown, file: string | undefined): Problem {
  if (!(cause instanceof TomlError)) return whole(file, "is not TOML that can be read: it nests too deeply");
  const [first = ""] = cause.message.split("\n");
  const message = inert(first.replace(/^Invalid TOML document: /, ""));
  return { ...whole(file, `not valid TOML: ${message}`), line: cause.line, column: cause.column };
}

function unreadable(file: string, cause: unknown): Problem {
  const code = (cause as { code?: unknown }).code;
  switch (code) {
    case "ENOENT":
    case "ENOTDIR":
      return { ...whole(file, "no such file"), expected: "a configuration; name it with --config=<file>" };
    case "EISDIR":
      return { ...whole(file, "is a directory"), expected: "a TOML file" };
    case "EACCES":
    case "EPERM":
      return {
        ...whole(file, "cannot be read: permission denied"),
        expected: "read permission for this user",
      };
    case "ERR_INVALID_ARG_VALUE":
      return whole(file, "is not a file name");
    default:
      return whole(file, `cannot be read: ${inert(cause instanceof Error ? cause.message : String(cause))}`);
  }
}

function notUtf8(bytes: Buffer, file: string): Problem {
  const utf16 = (bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff);
  const problem = {
    ...whole(file, utf16 ? "is UTF-16, not UTF-8" : "is not UTF-8"),
    expected: "TOML, which is always UTF-8",
  };
  return utf16 ? problem : { ...problem, ...firstInvalid(bytes) };
}

/** The place of the first byte that is no UTF-8: the replacement it decodes to does not encode back. */
function firstInvalid(bytes: Buffer): { line: number; column: number; found: string } {
  const decoded = bytes.toString("utf8");
  const again = Buffer.from(decoded);
  let offset = 0;
  while (offset < bytes.length && bytes[offset] === again[offset]) offset++;
  // A broken sequence may share its first byte with the replacement character's own encoding.
  while (offset > 0 && !isUtf8(bytes.subarray(0, offset))) offset--;
  const before = bytes.subarray(0, offset).toString("utf8").split("\n");
  return {
    line: before.length,
    column: (before.at(-1) as string).length + 1,
    found: `byte 0x${(bytes[offset] as number).toString(16).padStart(2, "0")}`,
  };
}

function writable(file: string, mode: number): Problem {
  const who = mode & 0o002 ? "every user" : "its group";
  return {
    severity: "warning",
    path: "",
    message: `${who} can write this file, and so steer the traffic; chmod go-w would stop that`,
    found: `mode ${(mode & 0o777).toString(8).padStart(4, "0")}`,
    ...named(file),
  };
}

function whole(file: string | undefined, message: string): Problem {
  return { severity: "error", path: "", message, ...named(file) };
}

const named = (file: string | undefined): { file?: string } => (file === undefined ? {} : { file });

const refuse = (problem: Problem): LoadResult => ({ ok: false, problems: [problem] });

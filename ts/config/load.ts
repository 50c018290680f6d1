/**
 * Loads a configuration from a file or a text: the one path that running, validating, showing and reloading
 * share. Whatever the file holds, the outcome is a checked configuration or problems with their places.
 */
import { isUtf8 } from "node:buffer";
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { parse, TomlError } from "smol-toml";
import { judge, problemOf } from "./check.ts";
import { type Overrides, originOf } from "./overrides.ts";
import { locator } from "./positions.ts";
import { inert, type Problem } from "./problem.ts";
import type { Config } from "./schema.ts";

export interface Source {
  file?: string;
  /** SHA-256 of the content, hexadecimal. */
  hash: string;
}

export type LoadResult =
  | { ok: true; config: Config; warnings: Problem[]; source: Source; text: string }
  /** Errors first, then warnings; `text` when the file could be read, for showing lines of it. */
  | { ok: false; problems: Problem[]; text?: string };

/** Larger files are refused: a configuration of 100,000 servers has a tenth of this. */
export const MAX_FILE_BYTES = 16 * 1024 * 1024;

/** Loads a file. Never rejects: a file that cannot be read is a problem. */
export async function loadConfigFile(file: string, overrides: Overrides = []): Promise<LoadResult> {
  let content: { bytes: Buffer; mode: number; regular: boolean };
  try {
    content = await readBounded(file);
  } catch (cause) {
    return refuse(unreadable(file, cause));
  }
  if (content.bytes.length > MAX_FILE_BYTES) {
    return refuse(
      whole(file, `is larger than ${MAX_FILE_BYTES / 1024 / 1024} MiB, the most a configuration may have`),
    );
  }
  const result = await loadBytes(content.bytes, file, overrides);
  if (!content.regular || (content.mode & 0o022) === 0) return result;
  const warning = writable(file, content.mode);
  return result.ok
    ? { ...result, warnings: [...result.warnings, warning] }
    : { ...result, problems: [...result.problems, warning] };
}

/** Loads a text; `file` is the name for messages. */
export async function loadConfigText(
  text: string,
  options: { file?: string; overrides?: Overrides } = {},
): Promise<LoadResult> {
  return judgeText(text, Buffer.from(text), options.file, options.overrides ?? []);
}

async function loadBytes(bytes: Buffer, file: string, overrides: Overrides): Promise<LoadResult> {
  if (!isUtf8(bytes)) return refuse(notUtf8(bytes, file));
  return judgeText(bytes.toString("utf8"), bytes, file, overrides);
}

async function judgeText(
  raw: string,
  bytes: Buffer,
  file: string | undefined,
  overrides: Overrides,
): Promise<LoadResult> {
  const text = raw.startsWith("\ufeff") ? raw.slice(1) : raw;
  let input: Record<string, unknown>;
  try {
    input = parse(text);
  } catch (cause) {
    return { ok: false, problems: [syntaxProblem(cause, file)], text };
  }
  if (Object.keys(input).length === 0) {
    const message = text.trim() === "" ? "is empty" : "has nothing but comments";
    const expected = "at least [frontends.<name>] and [backends.<name>]; see samples/minimal.toml";
    return { ok: false, problems: [{ ...whole(file, message), expected }], text };
  }
  const { config, findings } = judge(input, overrides);
  const problems = findings.length === 0 ? [] : placed(findings, text, file, input, overrides);
  if (config === undefined) return { ok: false, problems, text };
  const hash = createHash("sha256").update(bytes).digest("hex");
  return {
    ok: true,
    config,
    warnings: problems,
    source: { ...(file === undefined ? {} : { file }), hash },
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

async function readBounded(file: string): Promise<{ bytes: Buffer; mode: number; regular: boolean }> {
  const handle = await open(file, "r");
  try {
    const stat = await handle.stat();
    if (stat.isDirectory()) throw Object.assign(new Error("a directory"), { code: "EISDIR" });
    return { bytes: await readUpTo(handle, MAX_FILE_BYTES + 1), mode: stat.mode, regular: stat.isFile() };
  } finally {
    await handle.close();
  }
}

async function readUpTo(handle: FileHandle, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let total = 0;
  while (total < limit) {
    const buffer = Buffer.allocUnsafe(Math.min(256 * 1024, limit - total));
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, null);
    if (bytesRead === 0) break;
    chunks.push(buffer.subarray(0, bytesRead));
    total += bytesRead;
  }
  return Buffer.concat(chunks, total);
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

/** What is wrong with a file as a whole, before anything in it is judged. */
import { isUtf8 } from "node:buffer";
import { TomlError } from "smol-toml";
import { inert, type Problem } from "./problem.ts";

export function syntaxProblem(cause: unknown, file: string | undefined): Problem {
  if (!(cause instanceof TomlError)) return whole(file, "is not TOML that can be read: it nests too deeply");
  const [first = ""] = cause.message.split("\n");
  const message = inert(first.replace(/^Invalid TOML document: /, ""));
  return { ...whole(file, `not valid TOML: ${message}`), line: cause.line, column: cause.column };
}

export function unreadable(file: string, cause: unknown): Problem {
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

export function notUtf8(bytes: Buffer, file: string): Problem {
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

export function writable(file: string, mode: number): Problem {
  const who = mode & 0o002 ? "every user" : "its group";
  return {
    severity: "warning",
    path: "",
    message: `${who} can write this file, and so steer the traffic; chmod go-w would stop that`,
    found: `mode ${(mode & 0o777).toString(8).padStart(4, "0")}`,
    ...named(file),
  };
}

export function whole(file: string | undefined, message: string): Problem {
  return { severity: "error", path: "", message, ...named(file) };
}

export const named = (file: string | undefined): { file?: string } => (file === undefined ? {} : { file });

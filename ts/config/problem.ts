/**
 * What can be wrong with a configuration, as data. Every string in a `Problem` is inert: control characters
 * from a file or a variable arrive here escaped, so that printing or logging one cannot forge lines or
 * drive a terminal.
 */

export type Severity = "error" | "warning";

/** One thing to tell about a configuration. */
export interface Problem {
  severity: Severity;
  /** Key path, `backends.web.servers.s1.addr`; "" for the configuration as a whole. */
  path: string;
  message: string;
  /** What stands there. */
  found?: string;
  /** What should stand there. */
  expected?: string;
  /** The word that was probably meant. */
  suggestion?: string;
  /** Where the value came from when that is not the file: `CONVEY_MODE`, `--mode`. */
  origin?: string;
  file?: string;
  /** From 1. */
  line?: number;
  /** From 1, in UTF-16 code units as editors count. */
  column?: number;
}

/** A key path before it is text. */
export type KeyPath = readonly (string | number)[];

/**
 * A problem before it has a place. `point` says what of `at` to show: the key (it should not be there),
 * the value (it should be another), or the table (something is missing in it).
 */
export interface Finding extends Omit<Problem, "path" | "file" | "line" | "column" | "origin"> {
  at: KeyPath;
  point: "key" | "value" | "table";
}

// Controls, line and paragraph separators, marks that reorder or hide text, and halves of surrogate pairs.
const ACTIVE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/** Escapes whatever could act on a terminal or a log. */
export function inert(text: string): string {
  return text.replace(ACTIVE, (character) => {
    if (character === "\n") return "\\n";
    if (character === "\r") return "\\r";
    if (character === "\t") return "\\t";
    const code = (character.codePointAt(0) as number).toString(16);
    return code.length > 4 ? `\\U${code.padStart(8, "0")}` : `\\u${code.padStart(4, "0")}`;
  });
}

/** A quoted, inert, bounded rendering of text. */
export function quote(text: string, limit = 80): string {
  const short = text.length > limit ? `${text.slice(0, limit - 3)}...` : text;
  return `"${inert(short.replace(/[\\"]/g, "\\$&"))}"`;
}

/** `a."b c".d`: bare keys stay bare, others are quoted as in TOML; what is longer than any name is cut. */
export function formatPath(path: KeyPath): string {
  return path
    .map((key) => (/^[A-Za-z0-9_-]{1,255}$/.test(String(key)) ? String(key) : quote(String(key), 255)))
    .join(".");
}

/** At most eight choices, quoted. */
export function oneOf(words: readonly string[]): string {
  const shown = words.slice(0, 8).map((word) => quote(word));
  if (words.length > shown.length) shown.push(`${words.length - shown.length} more`);
  return words.length === 1 ? (shown[0] as string) : `one of ${shown.join(", ")}`;
}

/** A value as people name it. */
export function describeValue(value: unknown): string {
  switch (typeof value) {
    case "string":
      return quote(value);
    case "symbol":
      return inert(value.description ?? "a symbol");
    case "undefined":
      return "nothing";
    case "function":
      return "a function";
    case "object":
      if (value === null) return "null";
      return Array.isArray(value) ? "an array" : "a table";
    default:
      return String(value);
  }
}

/** One file of a configuration: read, parsed, values from the environment in place. */
import { isUtf8 } from "node:buffer";
import { parse } from "smol-toml";
import { type Environment, type Expanded, expandEnvironment } from "./environment.ts";
import { notUtf8, syntaxProblem, unreadable, whole } from "./file-problems.ts";
import type { Problem } from "./problem.ts";
import { type ReadOptions, readSmallFile, type SmallFile } from "./read.ts";

/** Larger files are refused: a configuration of 100,000 servers has a tenth of this. */
export const MAX_FILE_BYTES = 16 * 1024 * 1024;

export interface SourceFile extends SmallFile {
  /** For messages; undefined for a text that has none. */
  name: string | undefined;
  text: string;
  /** As it is written. */
  raw: Record<string, unknown>;
  expanded: Expanded;
}

export type ReadResult = { ok: true; file: SourceFile } | { ok: false; problem: Problem; text?: string };

/** Reads and parses a file; `name` is its path. Never rejects. */
export async function readFile(name: string, options: ReadOptions, env: Environment): Promise<ReadResult> {
  let content: SmallFile;
  try {
    content = await readSmallFile(name, MAX_FILE_BYTES, options);
  } catch (cause) {
    return { ok: false, problem: unreadable(name, cause) };
  }
  if (!content.regular && options.anything !== true) {
    return { ok: false, problem: whole(name, "is not a regular file") };
  }
  if (content.bytes.length > MAX_FILE_BYTES) {
    const most = `${MAX_FILE_BYTES / 1024 / 1024} MiB, the most a configuration may have`;
    return { ok: false, problem: whole(name, `is larger than ${most}`) };
  }
  if (!isUtf8(content.bytes)) return { ok: false, problem: notUtf8(content.bytes, name) };
  return parseFile(content.bytes.toString("utf8"), name, env, content);
}

/** Parses a text as if it were a file. */
export function parseFile(
  raw: string,
  name: string | undefined,
  env: Environment,
  content: SmallFile = { bytes: Buffer.from(raw), regular: false, mode: 0 },
): ReadResult {
  const text = raw.startsWith("\ufeff") ? raw.slice(1) : raw;
  try {
    const input = parse(text);
    return {
      ok: true,
      file: { ...content, name, text, raw: input, expanded: expandEnvironment(input, env) },
    };
  } catch (cause) {
    return { ok: false, problem: syntaxProblem(cause, name), text };
  }
}

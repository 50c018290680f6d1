/** What tells one content of a configuration's files from another: hashes of it, and cheap signs that it has changed. */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { resolve } from "node:path";
import { parse } from "smol-toml";
import { expandEnvironment } from "../config/environment.ts";
import { combinedHash } from "../config/gather.ts";
import { entriesOf, filesOf, foldersOf } from "../config/include.ts";
import { MAX_FILE_BYTES } from "../config/load.ts";

export const MISSING = "missing";
export const UNKNOWN = "unknown";
const OUR_FAULT = new Set(["EMFILE", "ENFILE", "ENOMEM"]);
export const EMPTY = createHash("sha256").digest("hex");

/**
 * The hash of a file and, where it includes files, of theirs, as `loadConfigFile()` has it; `MISSING`, `UNKNOWN` or the
 * code of an error where the file itself cannot be read. `folders` are those in which included files come and go,
 * undefined where that is not known.
 */
export async function hashFiles(file: string): Promise<{ hash: string; folders?: string[] }> {
  const main = await readWhole(file);
  if (typeof main === "string") return { hash: main };
  const hash = createHash("sha256").update(main).digest("hex");
  const entries = includedBy(main.toString("utf8"));
  if (entries === undefined) return { hash };
  if (entries.length === 0) return { hash, folders: [] };
  const { files } = await filesOf(file, entries);
  const included: [string, string][] = [];
  for (const { file: name, found } of files) {
    const one = await hashFile(name);
    if (one === UNKNOWN) return { hash: UNKNOWN };
    // As in loading: what a pattern found and is gone again is no part of it.
    if (!(found && one === MISSING)) included.push([resolve(name), one]);
  }
  return { hash: combinedHash(hash, included), folders: foldersOf(file, entries) };
}

/** By inode and time, those that a file includes; "" where it cannot be read. */
export async function identifyIncluded(file: string): Promise<string> {
  const main = await readWhole(file);
  const entries = typeof main === "string" ? undefined : includedBy(main.toString("utf8"));
  if (entries === undefined) return "";
  const { files } = await filesOf(file, entries);
  const all = await Promise.all(files.map(async ({ file: name }) => `${name} ${await identify(name, true)}`));
  return all.join(" ");
}

/** The entries of `include`; undefined where the text is no TOML just now. */
function includedBy(text: string): readonly string[] | undefined {
  // Most files include none, and need not be parsed to know.
  if (!text.includes("include")) return [];
  try {
    const { include } = parse(text.replace(/^\ufeff/, ""));
    if (include === undefined) return [];
    return entriesOf(expandEnvironment({ include }, process.env).input.include) ?? [];
  } catch {
    return undefined;
  }
}

async function hashFile(file: string): Promise<string> {
  const content = await readWhole(file);
  return typeof content === "string" ? content : createHash("sha256").update(content).digest("hex");
}

/** What cannot be read for another reason than absence is a content of its own: reading it gives the error. */
async function readWhole(file: string): Promise<Buffer | string> {
  try {
    // A pipe or a device can be read once; it is no file to watch.
    if (!(await stat(file)).isFile()) return "not a regular file";
    // Should it have become a pipe since, opening must not wait for a writer.
    const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      return await contentOf(handle);
    } finally {
      await handle.close();
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (OUR_FAULT.has(code)) return UNKNOWN;
    return code === "ENOENT" || code === "ENOTDIR" ? MISSING : code;
  }
}

/** Of a file that is too large to be a configuration, its size says enough. */
async function contentOf(handle: FileHandle): Promise<Buffer | string> {
  const { size } = await handle.stat();
  if (size > MAX_FILE_BYTES) return `${size} bytes`;
  const chunks: Buffer[] = [];
  for await (const chunk of handle.createReadStream({ end: MAX_FILE_BYTES, autoClose: false }))
    chunks.push(chunk);
  return Buffer.concat(chunks);
}

export async function identify(path: string, content = false): Promise<string> {
  try {
    const { dev, ino, size, mtimeMs } = await stat(path);
    return content ? `${dev}:${ino}:${size}:${mtimeMs}` : `${dev}:${ino}`;
  } catch {
    return "";
  }
}

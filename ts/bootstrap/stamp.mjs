/**
 * Content-hash stamps: a step runs again when what it reads has changed or what it made has gone.
 * Hashes rather than times, because a fresh clone and a branch switch both lie about times.
 */
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";

/** Every file below `folder` (relative to `root`, sorted) that `wanted(relativePath)` accepts. */
export function filesBelow(root, folder, wanted = () => true) {
  const found = [];
  const visit = (relative) => {
    for (const entry of readdirSync(join(root, relative), { withFileTypes: true })) {
      const path = `${relative}/${entry.name}`;
      if (entry.isDirectory()) {
        if (entry.name !== "node_modules" && entry.name !== "target") visit(path);
      } else if (wanted(path)) {
        found.push(path);
      }
    }
  };
  if (existsSync(join(root, folder))) visit(folder);
  return found.sort();
}

/** SHA-256 over names and contents of `files`, and over `extra` strings. A missing file counts as absent. */
export function hashOf(root, files, extra = []) {
  const hash = createHash("sha256");
  for (const text of extra) hash.update(`${text.length}:${text}`);
  for (const file of files) {
    const path = join(root, file);
    const content = existsSync(path) ? readFileSync(path) : Buffer.from("absent");
    hash.update(`${file}\0${content.length}\0`).update(content);
  }
  return hash.digest("hex");
}

/** Size and time of each output: notices one that was deleted or built by somebody else. */
function outputsOf(root, outputs) {
  const seen = [];
  for (const output of outputs) {
    const path = join(root, output);
    if (!existsSync(path)) return undefined;
    const { size, mtimeMs } = statSync(path);
    seen.push(`${output}:${size}:${mtimeMs}`);
  }
  return seen.join("\n");
}

/** Whether the stamp `file` says that `outputs` were made from `inputs` (a hash). */
export function isFresh(root, file, inputs, outputs) {
  let stamp;
  try {
    stamp = JSON.parse(readFileSync(file, "utf8"));
  } catch {
    return false;
  }
  const seen = outputsOf(root, outputs);
  return seen !== undefined && stamp.inputs === inputs && stamp.outputs === seen;
}

/** Notes in the stamp `file` that `outputs` are made from `inputs`. Throws when an output is missing. */
export function writeStamp(root, file, inputs, outputs) {
  const seen = outputsOf(root, outputs);
  if (seen === undefined)
    throw new Error(`the step ended well but did not make all of: ${outputs.join(", ")}`);
  mkdirSync(dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}`;
  writeFileSync(temporary, JSON.stringify({ inputs, outputs: seen }));
  renameSync(temporary, file);
}

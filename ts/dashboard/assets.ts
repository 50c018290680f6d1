/**
 * What browsers get beside the page: script, style and icon, each under a name that its content decides, so that it
 * can be kept for good. Read once, when the first page is asked for.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

export type Asset = { type: string; body: Uint8Array<ArrayBuffer>; gzipped: Uint8Array<ArrayBuffer> };

/** Paths for the page, and what is behind each. */
export type Assets = { script: string; style: string; icon: string; byPath: ReadonlyMap<string, Asset> };

const FOLDER = join(import.meta.dirname, "assets");

let read: Assets | undefined;

/** Everything of the dashboard's bundle. Throws when it was not built. */
export function assets(): Assets {
  if (read !== undefined) return read;
  const byPath = new Map<string, Asset>();
  const add = (name: string, extension: string, type: string): string => {
    const body = new Uint8Array(readFileSync(join(FOLDER, `${name}.${extension}`)));
    const hash = createHash("sha256").update(body).digest("hex").slice(0, 12);
    const path = `/assets/${name}-${hash}.${extension}`;
    byPath.set(path, { type, body, gzipped: new Uint8Array(gzipSync(body, { level: 9 })) });
    return path;
  };
  read = {
    script: add("app", "js", "text/javascript; charset=utf-8"),
    style: add("app", "css", "text/css; charset=utf-8"),
    icon: add("icon", "svg", "image/svg+xml"),
    byPath,
  };
  return read;
}

/** Where the HTTP server of `[stats]` listens, and the bearer token. */
import { createHash, timingSafeEqual } from "node:crypto";
import { open } from "node:fs/promises";
import { isLoopback } from "../config/address.ts";
import type { Config } from "../config/schema.ts";
import { ConveyError } from "../native/index.ts";

/** Where the HTTP server listens, the token it wants, if any, and further names it has. */
export type AdminSettings = {
  host: string;
  port: number;
  token: string | undefined;
  hosts: readonly string[];
};

/** Longer token files are something else. */
const MAX_TOKEN_BYTES = 4096;

/**
 * Settings from the configuration and `CONVEY_STATS_TOKEN`; the file wins.
 *
 * @throws ConveyError `CONFIG_INVALID` when the address is not a loopback one and there is no token, or when
 * the token file is unfit.
 */
export async function adminSettings(
  stats: NonNullable<Config["stats"]>,
  env: NodeJS.ProcessEnv,
): Promise<AdminSettings> {
  const token =
    stats.token_file === undefined ? env.CONVEY_STATS_TOKEN || undefined : await readToken(stats.token_file);
  if (token !== undefined) checkToken(token, stats.token_file ?? "CONVEY_STATS_TOKEN");
  if (token === undefined && !isLoopback(stats.bind)) {
    throw new ConveyError(
      "CONFIG_INVALID",
      `stats.bind: ${stats.bind} can be reached from other machines, which needs a token; ` +
        "set stats.token_file or CONVEY_STATS_TOKEN, or bind to 127.0.0.1",
      { field: "stats.bind" },
    );
  }
  return { host: stats.bind, port: stats.port, token, hosts: stats.hosts };
}

/** Whether an `Authorization` header carries the token; takes the same time whatever differs. */
export function isAuthorized(header: string | undefined, token: string): boolean {
  const given = /^Bearer +([^\s]+) *$/i.exec(header ?? "")?.[1] ?? "";
  return timingSafeEqual(digest(given), digest(token));
}

const digest = (text: string): Buffer => createHash("sha256").update(text).digest();

async function readToken(file: string): Promise<string> {
  const unfit = (what: string, cause?: unknown): ConveyError =>
    new ConveyError("CONFIG_INVALID", `stats.token_file: ${file} ${what}`, {
      field: "stats.token_file",
      cause,
    });
  const handle = await open(file, "r").catch((cause: NodeJS.ErrnoException) => {
    throw unfit(`cannot be read: ${cause.message}`, cause);
  });
  try {
    const stat = await handle.stat();
    if (!stat.isFile()) throw unfit("is not a regular file");
    if ((stat.mode & 0o077) !== 0) {
      const mode = (stat.mode & 0o777).toString(8).padStart(4, "0");
      throw unfit(`can be read or written by others (mode ${mode}); run chmod 0600 on it`);
    }
    if (stat.size > MAX_TOKEN_BYTES) throw unfit(`is larger than ${MAX_TOKEN_BYTES} bytes`);
    return (await handle.readFile("utf8")).trim();
  } finally {
    await handle.close();
  }
}

/** The message names the source, never the token. */
function checkToken(token: string, source: string): void {
  if (/^[\x21-\x7e]+$/.test(token)) return;
  throw new ConveyError(
    "CONFIG_INVALID",
    `${source} holds no usable token; a token is one word of printable ASCII, such as the output of "openssl rand -hex 32"`,
    { field: "stats.token_file" },
  );
}

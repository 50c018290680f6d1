/** Where the HTTP server of `[stats]` listens, and the bearer token. */
import { createHash, timingSafeEqual } from "node:crypto";
import { isLoopback } from "../config/address.ts";
import type { Config } from "../config/schema.ts";
import { readToken } from "../config/token.ts";
import { ConveyError } from "../native/index.ts";

/** Where the HTTP server listens, the token it wants, if any, and further names it has. */
export type AdminSettings = {
  host: string;
  port: number;
  token: string | undefined;
  hosts: readonly string[];
};

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
  const read = await readToken(stats.token_file, env);
  if (!read.ok) {
    const where = stats.token_file === undefined ? "" : `stats.token_file: ${stats.token_file} `;
    throw new ConveyError("CONFIG_INVALID", `${where}${read.message}`, { field: "stats.token_file" });
  }
  const { token } = read;
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

/**
 * Whether an `Authorization` header carries the token: as a bearer token or, as browsers ask for it, as the password
 * of anybody. Takes the same time whatever differs.
 */
export function isAuthorized(header: string | undefined, token: string): boolean {
  const [, scheme, credentials = ""] = /^(Bearer|Basic) +([^\s]+) *$/i.exec(header ?? "") ?? [];
  const given = scheme?.toLowerCase() === "basic" ? passwordOf(credentials) : credentials;
  return timingSafeEqual(digest(given), digest(token));
}

/** What follows the user's name in the credentials of Basic (RFC 7617). */
function passwordOf(credentials: string): string {
  const text = Buffer.from(credentials, "base64").toString("utf8");
  const colon = text.indexOf(":");
  return colon < 0 ? "" : text.slice(colon + 1);
}

const digest = (text: string): Buffer => createHash("sha256").update(text).digest();

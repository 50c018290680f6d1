/** The bearer token of the HTTP server: read from its file or the environment, and found fit or not. */
import { readSmallFile } from "./read.ts";

/** `token` is undefined when none is configured; messages name the source, never the token. */
export type TokenResult = { ok: true; token: string | undefined } | { ok: false; message: string };

/** Longer token files are something else. */
const MAX_TOKEN_BYTES = 4096;

const refuse = (message: string): TokenResult => ({ ok: false, message });

/** The token of `stats.token_file`, or of `CONVEY_STATS_TOKEN` where that is not set. Never rejects. */
export async function readToken(file: string | undefined, env: NodeJS.ProcessEnv): Promise<TokenResult> {
  if (file === undefined) {
    const token = env.CONVEY_STATS_TOKEN || undefined;
    return token === undefined || isToken(token)
      ? { ok: true, token }
      : refuse(`CONVEY_STATS_TOKEN ${NO_TOKEN}`);
  }
  const read = await readSmallFile(file, MAX_TOKEN_BYTES).catch((cause: Error) => cause);
  if (read instanceof Error) return refuse(`cannot be read: ${read.message}`);
  if (!read.regular) return refuse("is not a regular file");
  if ((read.mode & 0o077) !== 0) {
    const mode = (read.mode & 0o777).toString(8).padStart(4, "0");
    return refuse(`can be read or written by others (mode ${mode}); run chmod 0600 on it`);
  }
  if (read.bytes.length > MAX_TOKEN_BYTES) return refuse(`is larger than ${MAX_TOKEN_BYTES} bytes`);
  const token = read.bytes.toString("utf8").trim();
  return isToken(token) ? { ok: true, token } : refuse(NO_TOKEN);
}

const NO_TOKEN =
  'holds no usable token; a token is one word of printable ASCII, such as the output of "openssl rand -hex 32"';

const isToken = (text: string): boolean => /^[\x21-\x7e]+$/.test(text);

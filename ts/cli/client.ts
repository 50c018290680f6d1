/**
 * Asks the running balancer of a configuration file: by its Unix socket, which is found from the file's path
 * alone; where there is none, by the HTTP server that [stats] names, read as far as it can be.
 */
import { request } from "node:http";
import { join } from "node:path";
import { hostPort } from "../config/address.ts";
import type { Override } from "../config/overrides.ts";
import { distrust, socketFolders, socketNames } from "../http/socket-path.ts";

/** What came back, or why nothing did and which ways were tried. */
export type Reply =
  | {
      ok: true;
      status: number;
      body: string;
      /** The socket's path or the URL that answered. */
      by: string;
      /** Why the socket did not, where the HTTP server was asked instead. */
      instead: string;
    }
  | { ok: false; text: string };

export type Question = {
  /** GET unless given. */
  method?: string;
  /** Path and query. */
  path: string;
  body?: { type: string; text: string };
  /** Over all attempts; without it, for as long as it takes. */
  timeoutMs?: number;
  /** Whether the bearer token goes along to a TCP listener. */
  token: boolean;
  /** Takes what comes of a body that goes on, piece by piece; the reply's is empty then. */
  onData?: (text: string) => void;
};

/** A listener to ask: a Unix socket, or `host` and `port`. */
type Listener = { socketPath: string } | { host: string; port: number; token: string | undefined };
type Answer = { ok: true; status: number; body: string } | { ok: false; code: string; text: string };

/** Longer answers are none of ours. */
const MAX_ANSWER = 16 * 1024 * 1024;

/**
 * Asks the balancer that runs `file`. `named` says that the options name the HTTP server to ask: then it is
 * asked and nothing else.
 */
export async function askRunning(
  file: string,
  overrides: readonly Override[],
  question: Question,
  { named = false }: { named?: boolean } = {},
): Promise<Reply> {
  const { timeoutMs = Number.POSITIVE_INFINITY, path: _, token: withToken, ...what } = question;
  const changes = what.method !== undefined && what.method !== "GET";
  const deadline = performance.now() + timeoutMs;
  const left = (): number => Math.max(1, Math.ceil(deadline - performance.now()));
  const causeOf = ({ code, text }: { code: string; text: string }): string =>
    code === "TIMEOUT" ? `no answer within ${timeoutMs} ms` : text;
  const tried: string[] = [];
  if (!named) {
    const names = socketNames(file);
    const folders = socketFolders();
    for (const folder of folders) {
      const unfit = await distrust(folder).catch(
        (error: NodeJS.ErrnoException) => error.code ?? error.message,
      );
      if (unfit === "ENOENT") continue;
      if (unfit !== undefined) {
        tried.push(`${folder}: ${unfit === "EACCES" ? "permission denied" : unfit}`);
        continue;
      }
      for (const name of names) {
        const socketPath = join(folder, name);
        const answer = await ask({ socketPath }, question.path, left(), what);
        if (answer.ok) return { ...answer, by: socketPath, instead: "" };
        if (answer.code === "ENOENT") continue;
        tried.push(`${socketPath}: ${causeOf(answer)}`);
        // A process is there and does not answer: nobody else can speak for it.
        if (answer.code === "TIMEOUT") return { ok: false, text: tried.join("; ") };
        // It may have been done: what changes something is not asked twice.
        if (changes && !NEVER_SENT.has(answer.code)) return { ok: false, text: tried.join("; ") };
      }
    }
    if (tried.length === 0) tried.push(`no socket ${names.join(" or ")} in ${folders.join(", ")}`);
  }
  const server = await httpServerOf(file, overrides, withToken);
  if (!server.ok) return { ok: false, text: [...tried, server.text].join("; ") };
  const url = `http://${hostPort(server)}${question.path.replace(/\?.*/s, "")}`;
  const answer = await ask(server, question.path, left(), what);
  if (answer.ok) return { ...answer, by: url, instead: tried.join("; ") };
  return { ok: false, text: [...tried, `${url}: ${causeOf(answer)}`].join("; ") };
}

/** Errors of a connect: nobody has got the request. */
const NEVER_SENT = new Set(["ECONNREFUSED", "EACCES", "ENOTSOCK", "EPERM"]);

/** One request on a connection of its own, a GET unless said otherwise. Never rejects. */
export function ask(
  listener: Listener,
  path: string,
  timeoutMs: number,
  { method = "GET", body, onData }: Pick<Question, "method" | "body" | "onData"> = {},
): Promise<Answer> {
  return new Promise((resolve) => {
    const failed = (code: string, text: string): void => resolve({ ok: false, code, text });
    const { token, ...where } = "token" in listener ? listener : { ...listener, token: undefined };
    const headers = {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined
        ? {}
        : { "content-type": body.type, "content-length": Buffer.byteLength(body.text) }),
    };
    const outgoing = request({ ...where, method, path, agent: false, headers }, (incoming) => {
      const goesOn = onData !== undefined && incoming.statusCode === 200;
      let text = "";
      incoming.setEncoding("utf8").on("data", (piece: string) => {
        if (goesOn) return onData(piece);
        text += piece;
        if (text.length > MAX_ANSWER) outgoing.destroy(new Error("the answer is too long"));
      });
      incoming.once("end", () => resolve({ ok: true, status: incoming.statusCode ?? 0, body: text }));
      incoming.once("error", (error: NodeJS.ErrnoException) => failed(error.code ?? "", error.message));
    });
    const timer = Number.isFinite(timeoutMs)
      ? setTimeout(() => {
          failed("TIMEOUT", `no answer within ${timeoutMs} ms`);
          outgoing.destroy();
        }, timeoutMs)
      : undefined;
    outgoing.once("error", (error: NodeJS.ErrnoException) => failed(error.code ?? "", wording(error)));
    outgoing.once("close", () => clearTimeout(timer));
    outgoing.end(body?.text);
  });
}

function wording(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case "ECONNREFUSED":
      return "connection refused: nothing runs there";
    case "EACCES":
      return "permission denied: it belongs to another user";
    default:
      return error.message;
  }
}

type HttpServer =
  | { ok: true; host: string; port: number; token: string | undefined }
  | { ok: false; text: string };

/** The HTTP server a file names, even when the rest of the file is wrong. */
async function httpServerOf(
  file: string,
  overrides: readonly Override[],
  withToken: boolean,
): Promise<HttpServer> {
  const [{ loadConfigFile }, { configSchema }, { applyOverrides }, { parse }, { expandEnvironment }] =
    await Promise.all([
      import("../config/load.ts"),
      import("../config/schema.ts"),
      import("../config/overrides.ts"),
      import("smol-toml"),
      import("../config/environment.ts"),
    ]);
  const loaded = await loadConfigFile(file, overrides);
  let input: unknown;
  try {
    input = loaded.ok ? loaded.config : expandEnvironment(parse(loaded.text ?? ""), process.env).input;
  } catch {
    input = {};
  }
  const table = (applyOverrides(input, overrides) as { stats?: unknown }).stats;
  const stats = configSchema.shape.stats.safeParse(table).data;
  if (stats === undefined || stats.port === 0) {
    const first = loaded.ok ? undefined : loaded.problems[0];
    const why = first === undefined ? "" : ` (${first.message})`;
    return {
      ok: false,
      text: `${file}${why} names no HTTP server to ask: add [stats] with a port, or give --stats-port`,
    };
  }
  const where = { ok: true as const, host: reachable(stats.bind), port: stats.port };
  if (!withToken) return { ...where, token: undefined };
  try {
    const { adminSettings } = await import("../http/access.ts");
    return { ...where, token: (await adminSettings(stats, process.env)).token };
  } catch (error) {
    return { ok: false, text: error instanceof Error ? error.message : String(error) };
  }
}

/** A wildcard address is no destination; the same machine reaches it over loopback. */
function reachable(bind: string): string {
  if (bind === "0.0.0.0") return "127.0.0.1";
  return bind === "::" ? "::1" : bind;
}

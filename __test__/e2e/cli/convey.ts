/** Runs the built command line, as a user would, for the tests in this folder. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { finish, type Running, start } from "../../support/processes.ts";

export const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const MAIN = join(ROOT, "dist", "cli", "main.js");

/** Runs a command to its end. */
export function convey(args: readonly string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}) {
  return finish([process.execPath, MAIN, ...args], options);
}

/** Starts a command that serves. */
export function serving(args: readonly string[], env?: NodeJS.ProcessEnv): Running {
  return start([process.execPath, MAIN, ...args], env ? { env } : {});
}

/** Starts `run` with a file and waits until it is ready; `port` is where the first frontend listens. */
export async function ready(file: string, args: readonly string[] = []) {
  const running = serving(["--config", file, ...args]);
  const [, port] = await running.waitFor(/listens on 127\.0\.0\.1:(\d+)/);
  await running.waitFor(/is ready \(proxy mode\)/);
  return { running, port: Number(port) };
}

/** A folder that goes away with the test. */
export async function folder(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), "convey cli "));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** Writes a configuration with one frontend on a free port and one server; returns its path. */
export async function configuration(directory: string, server: number, extra = ""): Promise<string> {
  const file = join(directory, "config.toml");
  await writeFile(file, minimal(server, extra), { mode: 0o644 });
  return file;
}

/** The text of such a configuration. */
export function minimal(server: number, extra = "", listen = 0): string {
  return [
    "[frontends.web]",
    `listen_addr = "127.0.0.1:${listen}"`,
    'backend = "pool"',
    "[backends.pool.servers.s1]",
    `addr = "127.0.0.1:${server}"`,
    extra,
    "",
  ].join("\n");
}

/** Sends a text, ends, and returns what comes back. */
export async function exchange(port: number, text: string): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  socket.end(text);
  let got = "";
  for await (const bytes of socket) got += bytes;
  return got;
}

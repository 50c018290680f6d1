/** The product as an operator runs it: the command line's process with a configuration file. */
import { mkdtempSync, renameSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Explanation, Stats } from "../../ts/index.ts";
import { CONVEY } from "./peers.ts";
import { type Running, start, succeed } from "./processes.ts";
import type { Address } from "./sockets.ts";

/** How long a start may take: Node.js alone takes half a minute where 20 processes want two processors. */
const START_MS = 60_000;

/** A running command line. `await using` kills it. */
export interface Product extends AsyncDisposable {
  process: Running;
  /** The configuration file, alone in its folder. */
  file: string;
  /** Where the first frontend listens. */
  front: Address;
  stats(): Promise<Stats>;
  /** What `convey explain --running` tells of a TCP packet. */
  explain(source: string, destination: string): Promise<Explanation>;
  /** Replaces the file in one step. */
  replace(toml: string): void;
}

/** The TOML of one frontend "web" before one pool. */
export function pool(
  servers: Record<string, string>,
  settings: { backend?: string[]; top?: string[]; listen?: string; frontend?: string[] } = {},
): string {
  return [
    ...(settings.top ?? []),
    "[stats]",
    "port = 0",
    "[frontends.web]",
    `listen_addr = "${settings.listen ?? "127.0.0.1:0"}"`,
    'backend = "pool"',
    ...(settings.frontend ?? []),
    "[backends.pool]",
    ...(settings.backend ?? []),
    ...Object.entries(servers).flatMap(([name, addr]) => [
      `[backends.pool.servers.${name}]`,
      `addr = "${addr}"`,
    ]),
    "",
  ].join("\n");
}

/** Starts it, in a namespace when `prefix` says so, and waits until it is ready. */
export async function startConvey(toml: string, prefix: readonly string[] = []): Promise<Product> {
  const file = join(mkdtempSync(join(tmpdir(), "convey-product-")), "config.toml");
  writeFileSync(file, toml, { mode: 0o600 });
  return runConvey(file, prefix);
}

/** Starts it with a file that is there. */
export async function runConvey(file: string, prefix: readonly string[] = []): Promise<Product> {
  const process_ = start([...prefix, process.execPath, CONVEY, "run", "-c", file]);
  const { host, port, stats } = await ready(process_).catch(async (error) => {
    await process_.stop();
    throw error;
  });
  const ask = async (url: string): Promise<unknown> => {
    if (prefix.length === 0) return (await fetch(url, { signal: AbortSignal.timeout(5_000) })).json();
    return JSON.parse(await succeed([...prefix, "curl", "-sf", "--max-time", "5", url]));
  };
  return {
    process: process_,
    file,
    front: { host, port: Number(port) },
    stats: async () => (await ask(stats)) as Stats,
    explain: async (source, destination) => {
      const question = new URLSearchParams({ protocol: "tcp", source, destination });
      return (await ask(`${new URL("/api/v1/explain", stats)}?${question}`)) as Explanation;
    },
    replace(next) {
      writeFileSync(`${file}.new`, next, { mode: 0o600 });
      renameSync(`${file}.new`, file);
    },
    [Symbol.asyncDispose]: () => process_[Symbol.asyncDispose](),
  };
}

async function ready(running: Running): Promise<{ host: string; port: string; stats: string }> {
  const [, host = "", port = ""] = await running.waitFor(/listens on \[?([0-9a-f.:]+?)\]?:(\d+)/, START_MS);
  const [, stats = ""] = await running.waitFor(/(http:\/\/[^/]+\/stats)/, START_MS);
  await running.waitFor(/is ready/, START_MS);
  return { host, port, stats };
}

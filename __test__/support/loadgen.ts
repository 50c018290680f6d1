/** The load generator of the workspace: builds it once, runs it, parses what it reports. */
import { type Running, start, succeed } from "./processes.ts";

export interface Failures {
  connect: number;
  reset: number;
  closed_early: number;
  timeout: number;
  malformed: number;
}

/** What a run of `requests` or `bulk` reports. */
export interface LoadResult {
  window_s: number;
  requests: number;
  /** The same with the warm-up's, of `requests` alone. */
  all: number;
  bytes: number;
  failures: Failures;
  latency_us: { p50: number; p90: number; p99: number; p999: number; max: number } | null;
  /** CPU of the watched processes in the window. */
  cpu_s: number;
  /** The same to the nanosecond, without threads that ended in the window. */
  threads_s: number;
  /** CPU of the generator and of the processes beside it. */
  beside_s: number;
  /** Busy time of the watched core; 0 without one. */
  core_s: number;
  steal_share: number;
}

let built: Promise<string> | undefined;

/** Path of the executable; builds it when it is stale. */
export function loadgenPath(): Promise<string> {
  built ??= build();
  return built;
}

async function build(): Promise<string> {
  const command = ["cargo", "build", "--release", "--package", "convey-loadgen", "--message-format=json"];
  const out = await succeed(command, { timeoutMs: 300_000 });
  for (const line of out.split("\n").reverse()) {
    const executable = /"executable":"([^"]+convey-loadgen)"/.exec(line)?.[1];
    if (executable !== undefined) return executable;
  }
  throw new Error("cargo built convey-loadgen but named no executable");
}

/** Reads the last report out of what a run printed. */
export function parseResult(stdout: string): LoadResult {
  for (const line of stdout.trim().split("\n").reverse()) {
    if (line.startsWith('{"event":"result"')) return JSON.parse(line) as LoadResult;
  }
  throw new Error(`the load generator reported nothing: ${stdout}`);
}

/** Starts the reference server and returns it with its address. */
export async function startServer(
  options: { prefix?: readonly string[]; listen?: string; args?: readonly string[] } = {},
): Promise<{ process: Running; address: string }> {
  const command = [
    ...(options.prefix ?? []),
    await loadgenPath(),
    "serve",
    "--listen",
    options.listen ?? "127.0.0.1:0",
    ...(options.args ?? []),
  ];
  const process = start(command);
  const match = await process.waitFor(/"address":"([^"]+)"/);
  return { process, address: match[1] ?? "" };
}

/** Runs one load to its end. */
export async function load(
  args: readonly string[],
  options: { prefix?: readonly string[]; timeoutMs?: number } = {},
): Promise<LoadResult> {
  const command = [...(options.prefix ?? []), await loadgenPath(), ...args];
  return parseResult(await succeed(command, { timeoutMs: options.timeoutMs ?? 120_000 }));
}

/** All failures of a run together. */
export function failed(result: LoadResult): number {
  return Object.values(result.failures).reduce((sum: number, n: number) => sum + n, 0);
}

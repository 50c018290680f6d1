/** The kinds of work: what the load generator is told to do, and which figures come of it. */
import { existsSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { failed, type LoadResult, load, parseResult } from "../support/loadgen.ts";
import { start } from "../support/processes.ts";
import type { Figure, Prefix, Visit } from "./figures.ts";
import { holdMany, idlePair } from "./idle.ts";
import { goOn } from "./interruption.ts";
import type { Options, Work } from "./options.ts";
import { STOLEN, unstolen } from "./steal.ts";

/** A lab in which servers, and the balancer if there is one, are up. */
export interface Standing {
  /** The load generator where clients are. */
  client: readonly string[];
  /** The same for load that others must not wait for. */
  behind: readonly string[];
  /** Where clients connect to. */
  target: string;
  /** The second address, with a server of its own; used by `mixed`. */
  besides: string;
  /** The balancer's processes; none without a balancer. */
  pids: readonly number[];
  serverPid: number;
  /** The addresses that clients connect from, when one is too few. */
  from: readonly string[];
  /** What makes a client begin with a ClientHello. */
  hello: readonly string[];
  /** The file that the balancer writes a line a connection to. */
  log: string | undefined;
}

const CONNECTIONS = "64";
/** Of `few`: nobody waits for long behind others. */
const FEW = "8";

/** Until every connection of `sparse` has been opened and has asked once. */
const SPARSE_WARMUP_S = 1.5;

/** What a logged line may take to be in the file. */
const FLUSHED_MS = 1500;

/** Does `name` once and puts what it finds into `result`. */
export async function work(
  name: Work,
  at: Standing,
  options: Options,
  halfRate: number | undefined,
  result: Visit,
): Promise<void> {
  const measure = async (
    args: readonly string[],
    judge: (run: LoadResult) => Visit["figures"],
    seconds = options.seconds,
    warmup = options.warmupSeconds,
    begin = () => {},
  ) => {
    const run = await repeat(name, result, async () => {
      begin();
      const command = [...args, ...common(at, seconds, warmup)];
      const seen = await load(command, {
        prefix: at.client.slice(0, -1),
        timeoutMs: 120_000 + seconds * 1000,
      });
      result.failures += failed(seen);
      return seen;
    });
    if (run !== undefined) Object.assign(result.figures, judge(run));
  };

  switch (name) {
    case "memory":
      if (at.pids.length > 0) result.figures.idle_bytes_per_pair = await idlePair(at, options.idlePairs);
      return;
    case "idle":
      Object.assign(result.figures, await holdMany(at, options.pairs, options.idleSeconds));
      return;
    case "bulk":
      return await measure(["bulk", "--connections", "4"], (run) => ({
        ...cpu(at, run, run.bytes / 1e9, "bulk_cpu_s_per_gb"),
        bulk_gbit_per_s: gbitPerS(run),
      }));
    case "keepalive":
      return await measure(["requests", "--connections", CONNECTIONS], (run) => ({
        ...cpu(at, run, run.requests, "keepalive_cpu_us_per_request"),
        ...cores(at, run, "keepalive_cores_used"),
        keepalive_beside_cores_used: run.beside_s / run.window_s,
        keepalive_requests_per_s: run.requests / run.window_s,
        ...latencies(run, "keepalive_p50_us", "keepalive_p99_us"),
      }));
    case "few":
      return await measure(["requests", "--connections", FEW], (run) => ({
        ...cpu(at, run, run.requests, "few_cpu_us_per_request"),
        few_requests_per_s: run.requests / run.window_s,
        ...latencies(run, "few_p50_us", "few_p99_us"),
      }));
    case "half":
      if (halfRate === undefined) return;
      return await measure(
        ["requests", "--connections", CONNECTIONS, "--rate", halfRate.toFixed(0)],
        (run) => ({
          ...cpu(at, run, run.requests, "half_load_cpu_us_per_request"),
          ...cores(at, run, "half_load_cores_used"),
          ...latencies(run, "half_load_p50_us", "half_load_p99_us"),
        }),
      );
    case "connect":
    case "connect-proxy":
    case "connect-sni":
    case "connect-log": {
      const prefix = name.replace("-", "_") as Prefix;
      const args = ["requests", "--fresh", "--connections", CONNECTIONS, ...at.hello];
      const { log } = at;
      let connections = 0;
      let before = 0;
      await measure(
        args,
        (run) => {
          connections = run.all;
          return {
            ...cpu(at, run, run.requests, `${prefix}_cpu_us_per_connection`),
            ...cores(at, run, `${prefix}_cores_used`),
            [`${prefix}_beside_cores_used`]: run.beside_s / run.window_s,
            [`${prefix}_connections_per_s`]: run.requests / run.window_s,
          };
        },
        options.seconds,
        options.warmupSeconds,
        () => {
          before = log === undefined ? 0 : lines(log);
        },
      );
      if (log === undefined || at.pids.length === 0 || connections === 0) return;
      await sleep(FLUSHED_MS);
      result.figures.connect_log_lines_per_connection = (lines(log) - before) / connections;
      return;
    }
    case "sparse":
      return await measure(
        ["requests", "--rotate", "--connections", String(options.clients), "--rate", String(options.clients)],
        (run) => ({
          ...(at.pids.length > 0 && run.requests > 0
            ? { sparse_cpu_us_per_request: (run.threads_s / run.requests) * 1e6 }
            : {}),
          ...latencies(run, "sparse_p50_us", "sparse_p99_us"),
        }),
        Math.max(options.seconds, options.sparseSeconds),
        SPARSE_WARMUP_S,
      );
    case "mixed":
      return await mixed(at, options, result);
  }
}

/** Small requests at a fixed rate while bulk downloads take what they can get through the same balancer. */
async function mixed(at: Standing, options: Options, result: Visit): Promise<void> {
  const args = ["requests", "--connections", CONNECTIONS, "--rate", String(options.mixedRate)];
  const seconds = String(options.seconds);
  const run = await repeat("mixed", result, async () => {
    const bulk = ["bulk", "--connect", at.besides, "--connections", "4", "--duration", seconds];
    await using beside = start([...at.behind, ...bulk, "--warmup", String(options.warmupSeconds + 0.2)]);
    const small = await load([...args, ...common(at, options.seconds, options.warmupSeconds)], {
      prefix: at.client.slice(0, -1),
    });
    if ((await beside.exited).code !== 0) throw new Error(`the bulk load failed\n${beside.output()}`);
    const moved = parseResult(beside.stdout);
    result.failures += failed(small) + failed(moved);
    return { small, moved, steal_share: Math.max(small.steal_share, moved.steal_share) };
  });
  if (run === undefined) return;
  Object.assign(result.figures, {
    ...latencies(run.small, "mixed_p50_us", "mixed_p99_us"),
    ...cores(at, run.small, "mixed_cores_used"),
    mixed_bulk_gbit_per_s: gbitPerS(run.moved),
  });
}

async function repeat<T extends { steal_share: number }>(
  name: Work,
  result: Visit,
  once: () => Promise<T>,
): Promise<T | undefined> {
  goOn();
  const run = await unstolen(once);
  if (run === undefined) result.missing.push(`${name}: ${STOLEN}`);
  return run;
}

function common(at: Standing, seconds: number, warmup: number): string[] {
  return [
    ...["--connect", at.target, "--duration", String(seconds), "--warmup", String(warmup)],
    ...(at.pids.length > 0 ? ["--watch", at.pids.join(",")] : []),
    ...["--beside", String(at.serverPid)],
  ];
}

function cpu(at: Standing, run: LoadResult, units: number, figure: Figure): Visit["figures"] {
  return at.pids.length > 0 && units > 0
    ? { [figure]: (run.cpu_s / units) * (figure.includes("_us_") ? 1e6 : 1) }
    : {};
}

function cores(at: Standing, run: LoadResult, figure: Figure): Visit["figures"] {
  return at.pids.length > 0 ? { [figure]: run.cpu_s / run.window_s } : {};
}

function latencies(run: LoadResult, p50: Figure, p99: Figure): Visit["figures"] {
  return run.latency_us === null ? {} : { [p50]: run.latency_us.p50, [p99]: run.latency_us.p99 };
}

function gbitPerS(run: LoadResult): number {
  return (run.bytes * 8) / 1e9 / run.window_s;
}

/** Lines of a file; 0 when there is none. */
function lines(file: string): number {
  if (!existsSync(file)) return 0;
  return readFileSync(file).reduce((count, byte) => (byte === 10 ? count + 1 : count), 0);
}

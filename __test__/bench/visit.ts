/** One visit: a fresh lab, one peer in it, every kind of work once. */
import { setTimeout as sleep } from "node:timers/promises";
import { failed, type LoadResult, load, loadgenPath, startServer } from "../support/loadgen.ts";
import { family, finish, memoryBytes, type Running, start, until } from "../support/processes.ts";
import { address, Row } from "../support/row.ts";
import { goOn, guard } from "./interruption.ts";
import type { Options, Profile, Work } from "./options.ts";
import type { Peer } from "./peers.ts";
import { STOLEN, unstolen } from "./steal.ts";

/** Names of figures; the unit is part of the name. */
export type Figure =
  | "bulk_cpu_s_per_gb"
  | "bulk_gbit_per_s"
  | "keepalive_cpu_us_per_request"
  | "keepalive_requests_per_s"
  | "keepalive_cores_used"
  | "half_load_p50_us"
  | "half_load_p99_us"
  | "half_load_cpu_us_per_request"
  | "half_load_cores_used"
  | "keepalive_beside_cores_used"
  | "connect_beside_cores_used"
  | "connect_cpu_us_per_connection"
  | "connect_connections_per_s"
  | "connect_cores_used"
  | "idle_bytes_per_pair";

export interface Visit {
  peer: string;
  figures: Partial<Record<Figure, number>>;
  /** Works without figures, and why. */
  missing: string[];
  /** Failed requests and connections over all runs. */
  failures: number;
}

const CONNECTIONS = "64";

/** Visits `peer`; `halfRate` is the fixed rate of the half-load run in requests a second, without which it is left out. */
export async function visit(
  peer: Peer,
  profile: Profile,
  offloads: boolean,
  options: Options,
  halfRate: number | undefined,
): Promise<Visit> {
  goOn();
  await using lab = await Row.create({ offloads, reuseTimeWait: true });
  using _guard = guard(lab.namespaces());
  // As many descriptors as may be had; exec keeps the process id.
  const files = ["sh", "-c", 'ulimit -n "$(ulimit -Hn)"; exec "$@"', "bench"];
  const aside = profile === "one" ? [...files, "taskset", "-c", "0"] : files;
  const apart = profile === "one" ? [...files, "taskset", "-c", "1"] : files;

  const server = await startServer({
    prefix: lab.at("server", ...aside),
    listen: `${address.server}:8080`,
  });
  await using _server = server.process;
  let target = server.address;
  let balancer: Running | undefined;
  if (peer.command !== undefined) {
    target = `${address.front}:8080`;
    const relay = { listen: target, server: server.address, threads: profile === "one" ? 1 : 2 };
    balancer = start(lab.at("balancer", ...apart, ...peer.command(relay)));
  }
  await using _balancer = balancer;
  const client = lab.at("client", ...aside, await loadgenPath());
  await until(
    async () => {
      if (balancer && !balancer.running) throw new Error(`${peer.name} ended at once\n${balancer.output()}`);
      return (await finish([...client, "hold", "--connect", target, "--connections", "1"])).code === 0;
    },
    `answer through ${peer.name}`,
    15_000,
    () => balancer?.output() ?? "",
  );

  const pids = balancer === undefined ? [] : family(balancer.pid);
  const common = [
    "--connect",
    target,
    "--duration",
    String(options.seconds),
    "--warmup",
    String(options.warmupSeconds),
    ...(pids.length > 0 ? ["--watch", pids.join(",")] : []),
    ...["--beside", String(server.process.pid)],
  ];
  const result: Visit = { peer: peer.name, figures: {}, missing: [], failures: 0 };
  const measure = async (work: Work, args: string[], judge: (run: LoadResult) => Visit["figures"]) => {
    goOn();
    const run = await unstolen(async () => {
      const seen = await load([...args, ...common], { prefix: client.slice(0, -1) });
      result.failures += failed(seen);
      return seen;
    });
    if (run === undefined) result.missing.push(`${work}: ${STOLEN}`);
    else Object.assign(result.figures, judge(run));
  };
  const cpu = (run: LoadResult, units: number, figure: Figure) =>
    pids.length > 0 && units > 0
      ? { [figure]: (run.cpu_s / units) * (figure.includes("_us_") ? 1e6 : 1) }
      : {};
  const cores = (run: LoadResult, figure: Figure) =>
    pids.length > 0 ? { [figure]: run.cpu_s / run.window_s } : {};

  for (const work of options.works) {
    switch (work) {
      case "memory":
        if (pids.length > 0)
          result.figures.idle_bytes_per_pair = await idlePair(client, target, pids, options.idlePairs);
        break;
      case "bulk":
        await measure(work, ["bulk", "--connections", "4"], (run) => ({
          ...cpu(run, run.bytes / 1e9, "bulk_cpu_s_per_gb"),
          bulk_gbit_per_s: (run.bytes * 8) / 1e9 / run.window_s,
        }));
        break;
      case "keepalive":
        await measure(work, ["requests", "--connections", CONNECTIONS], (run) => ({
          ...cpu(run, run.requests, "keepalive_cpu_us_per_request"),
          ...cores(run, "keepalive_cores_used"),
          keepalive_beside_cores_used: run.beside_s / run.window_s,
          keepalive_requests_per_s: run.requests / run.window_s,
        }));
        break;
      case "half":
        if (halfRate === undefined) break;
        await measure(
          work,
          ["requests", "--connections", CONNECTIONS, "--rate", halfRate.toFixed(0)],
          (run) => ({
            ...cpu(run, run.requests, "half_load_cpu_us_per_request"),
            ...cores(run, "half_load_cores_used"),
            ...(run.latency_us === null
              ? {}
              : { half_load_p50_us: run.latency_us.p50, half_load_p99_us: run.latency_us.p99 }),
          }),
        );
        break;
      case "connect":
        await measure(work, ["requests", "--fresh", "--connections", CONNECTIONS], (run) => ({
          ...cpu(run, run.requests, "connect_cpu_us_per_connection"),
          ...cores(run, "connect_cores_used"),
          connect_beside_cores_used: run.beside_s / run.window_s,
          connect_connections_per_s: run.requests / run.window_s,
        }));
        break;
    }
  }
  return result;
}

/** User-space memory an idle pair holds; what the kernel holds for two sockets is the same for every peer. */
async function idlePair(client: string[], target: string, pids: number[], pairs: number): Promise<number> {
  await sleep(500);
  const before = memoryBytes(pids);
  await using holder = start([...client, "hold", "--connect", target, "--connections", String(pairs)], {
    stdin: true,
  });
  await holder.waitFor(/"event":"ready"/, 30_000);
  await sleep(1500);
  return (memoryBytes(pids) - before) / pairs;
}

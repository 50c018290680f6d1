/** One visit: a fresh lab, one forwarder in it, every kind of work once. */
import { setTimeout as sleep } from "node:timers/promises";
import { example } from "../../net/lab/balancer.ts";
import { failed, load, loadgenPath, startServer } from "../../support/loadgen.ts";
import { finish, type Running, start, succeed, until } from "../../support/processes.ts";
import { net, WireLab } from "./lab.ts";
import type { PacketOptions } from "./options.ts";
import { type Forwarder, OTHER_CORE } from "./peers.ts";

/**
 * Floods of small packets: "small" has runs of a flow, which an engine may take together; in "scattered" no two of
 * a flow are behind each other, and the generator, which sends them one by one, may be the limit.
 */
export type Flood = "small" | "scattered";

const RUN: Readonly<Record<Flood, number>> = { small: 64, scattered: 1 };

/** Names of figures; the unit is part of the name. */
export type PacketFigure =
  | `${Flood}_${"kpps" | "offered_kpps" | "cpu_ns_per_packet" | "cores_used"}`
  | "bulk_gbit_per_s"
  | "bulk_cpu_s_per_gb"
  | "bulk_offloads_off_gbit_per_s"
  | "bulk_offloads_off_cpu_s_per_gb";

export interface PacketVisit {
  peer: string;
  figures: Partial<Record<PacketFigure, number>>;
  /** Runs during which more than 1 % of the machine was stolen: their figures are left out. */
  stolen: string[];
  /** Connections of the bulk runs that broke. */
  failures: number;
}

/** Share of a run's machine time that may be stolen. */
const MAX_STEAL = 0.01;

/** Connections of a bulk run. */
const CONNECTIONS = "4";

export async function visit(peer: Forwarder, options: PacketOptions): Promise<PacketVisit> {
  await using lab = await WireLab.create();
  const aside = ["taskset", "-c", String(OTHER_CORE)];
  const server = await startServer({
    prefix: lab.at("server", ...aside),
    listen: `${net.server}:${net.tcpPort}`,
  });
  await using _server = server.process;
  await using forwarder = new Ending(await peer.begin(lab));
  const result: PacketVisit = { peer: peer.name, figures: {}, stolen: [], failures: 0 };
  const floods = (["small", "scattered"] as const).filter(
    (flood) => peer.works.includes(flood) && options.works.includes(flood),
  );
  if (floods.length > 0) {
    await lab.offloads("off");
    await proveRewrite(lab, peer, forwarder.running);
    for (const flood of floods) await flooded(lab, peer, forwarder.running, options, result, flood);
  }
  if (peer.works.includes("bulk") && options.works.includes("bulk")) {
    for (const state of ["on", "off"] as const) {
      await lab.offloads(state);
      await bulk(lab, peer, forwarder.running, options, result, state);
    }
  }
  return result;
}

/** SIGTERM at the end, so that what was done to the host is undone; there may be no process at all. */
class Ending implements AsyncDisposable {
  readonly running: Running | undefined;

  constructor(running: Running | undefined) {
    this.running = running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.running?.stop("SIGTERM");
  }
}

async function flooded(
  lab: WireLab,
  peer: Forwarder,
  running: Running | undefined,
  options: PacketOptions,
  result: PacketVisit,
  kind: Flood,
): Promise<void> {
  const total = options.warmupSeconds + options.seconds + 0.5;
  await using flood = start(await inject(lab, peer, options.flows, RUN[kind], total));
  await sleep(options.warmupSeconds * 1000);
  const script = snapshots(running?.pid, options.seconds);
  const [before, after] = parseSnapshots(await succeed(lab.at("client", "sh", "-ec", script)));
  const { code } = await flood.exited;
  if (code !== 0) throw new Error(`the flood through ${peer.name} ended early\n${flood.output()}`);
  const sent = Number(/sent (\d+)/.exec(flood.stdout)?.[1]);
  if ((after.steal - before.steal) / (after.machine - before.machine) > MAX_STEAL) {
    result.stolen.push(kind);
    return;
  }
  const packets = after.packets - before.packets;
  result.figures[`${kind}_kpps`] = packets / ((after.ns - before.ns) / 1e6);
  result.figures[`${kind}_offered_kpps`] = sent / total / 1000;
  if (running !== undefined) {
    const cpu = after.cpu - before.cpu;
    result.figures[`${kind}_cpu_ns_per_packet`] = cpu / packets;
    result.figures[`${kind}_cores_used`] = cpu / (after.ns - before.ns);
  }
}

async function inject(
  lab: WireLab,
  peer: Forwarder,
  flows: number,
  run: number,
  seconds: number,
): Promise<string[]> {
  return lab.at(
    "client",
    ...["taskset", "-c", String(OTHER_CORE), await example("inject"), "front"],
    ...["--flood", String(seconds), "--flows", String(flows), "--segments", String(run)],
    ...["--to", `${await lab.mac("balancer", "front")}/${peer.floodTo}:${net.udpPort}`, "--from", net.client],
  );
}

/** What the interface counts is worth something only when it is the right packet: looked at apart, as looking costs. */
async function proveRewrite(lab: WireLab, peer: Forwarder, running: Running | undefined): Promise<void> {
  const rule = `ether daddr ${net.sinkMac} ip daddr ${net.sink} udp dport ${net.udpPort} counter name right`;
  await lab.sh(
    "client",
    `nft 'table netdev proof { counter right { }; chain in { type filter hook ingress device front priority 0; ${rule}; }; }'`,
  );
  await succeed(await inject(lab, peer, 4, 1, 0.05));
  await until(
    async () => /packets [1-9]/.test(await lab.sh("client", "nft list counter netdev proof right")),
    `packet for ${net.sink} through ${peer.name}`,
    5_000,
    () => running?.output() ?? "",
  );
  await lab.sh("client", "nft delete table netdev proof");
}

interface Snapshot {
  ns: number;
  packets: number;
  steal: number;
  machine: number;
  /** CPU of the forwarder's threads in ns; 0 without a process. */
  cpu: number;
}

/** A script that prints two snapshots, by one shell so that they are taken when they say. */
function snapshots(pid: number | undefined, seconds: number): string {
  const once = [
    "date +%s%N",
    "cat /sys/class/net/front/statistics/rx_packets",
    "head -n1 /proc/stat",
    pid === undefined ? "echo 0" : `cat /proc/${pid}/task/*/schedstat`,
    "echo end",
  ].join("\n");
  return `${once}\nsleep ${seconds}\n${once}`;
}

function parseSnapshots(text: string): [Snapshot, Snapshot] {
  const [before, after] = text.split("end\n").map((part) => part.trim().split("\n"));
  if (before === undefined || after === undefined) throw new Error(`no counters in: ${text}`);
  return [parseSnapshot(before), parseSnapshot(after)];
}

function parseSnapshot([ns, packets, stat, ...threads]: string[]): Snapshot {
  // user nice system idle iowait irq softirq steal
  const ticks = (stat ?? "").split(/\s+/).slice(1, 9).map(Number);
  return {
    ns: Number(ns),
    packets: Number(packets),
    steal: ticks[7] ?? 0,
    machine: ticks.reduce((sum, n) => sum + n, 0),
    cpu: threads.reduce((sum, line) => sum + Number(line.split(" ")[0]), 0),
  };
}

async function bulk(
  lab: WireLab,
  peer: Forwarder,
  running: Running | undefined,
  options: PacketOptions,
  result: PacketVisit,
  offloads: "on" | "off",
): Promise<void> {
  const prefix = lab.at("client", "taskset", "-c", String(OTHER_CORE));
  const target = `${peer.bulkTo}:${net.tcpPort}`;
  const hold = [...prefix, await loadgenPath(), "hold", "--connect", target, "--connections", "1"];
  await until(
    async () => (await finish(hold, { timeoutMs: 2_000 })).code === 0,
    `connection through ${peer.name}`,
    10_000,
    () => running?.output() ?? "",
  );
  const run = await load(
    [
      ...["bulk", "--connections", CONNECTIONS, "--connect", target],
      ...["--duration", String(options.seconds), "--warmup", String(options.warmupSeconds)],
      ...(running === undefined ? [] : ["--watch", String(running.pid)]),
    ],
    { prefix },
  );
  result.failures += failed(run);
  const name = offloads === "on" ? "bulk" : "bulk_offloads_off";
  if (run.steal_share > MAX_STEAL) {
    result.stolen.push(name);
    return;
  }
  result.figures[`${name}_gbit_per_s`] = (run.bytes * 8) / 1e9 / run.window_s;
  if (running !== undefined && run.bytes > 0)
    result.figures[`${name}_cpu_s_per_gb`] = run.cpu_s / (run.bytes / 1e9);
}

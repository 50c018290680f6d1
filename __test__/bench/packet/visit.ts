/** One visit: a fresh lab, one forwarder in it, every kind of work once. */
import { failed, type LoadResult, load, loadgenPath, startServer } from "../../support/loadgen.ts";
import { finish, type Running, until } from "../../support/processes.ts";
import { goOn } from "../interruption.ts";
import { STOLEN, unstolen } from "../steal.ts";
import { FLOODS, type Flood, flood, proveRewrite } from "./flood.ts";
import { net, WireLab } from "./lab.ts";
import type { PacketOptions } from "./options.ts";
import { BALANCER_CORE, type Forwarder, OTHER_CORE, type Work } from "./peers.ts";

/** Names of figures; the unit is part of the name. */
export type PacketFigure =
  | `${Flood}_${"kpps" | "core_ns_per_packet" | "core_used" | "generator_kpps"}`
  | `${Named<"connect">}_${"connections_per_s" | "core_us_per_connection"}`
  | `${Named<"bulk">}_${"gbit_per_s" | "core_s_per_gb"}`
  | `${Named<"connect" | "bulk">}_core_used`;

/** With segmentation and checksums by the "hardware", or in software. */
type Named<W extends string> = W | `${W}_offloads_off`;

export interface PacketVisit {
  peer: string;
  figures: Partial<Record<PacketFigure, number>>;
  /** Works without figures, and why. */
  missing: string[];
  /** Floods in which the generator was the limit. */
  atCeiling: string[];
  /** Connections that broke. */
  failures: number;
}

/** Where searches of earlier visits ended, by peer and flood: they begin there. */
export type Guesses = Map<string, number>;

export async function visit(peer: Forwarder, options: PacketOptions, guesses: Guesses): Promise<PacketVisit> {
  await using lab = await WireLab.create();
  const aside = ["taskset", "-c", String(OTHER_CORE)];
  const server = await startServer({
    prefix: lab.at("server", ...aside),
    listen: `${net.server}:${net.tcpPort}`,
  });
  await using _server = server.process;
  await using forwarder = new Ending(await peer.begin(lab));
  const result: PacketVisit = { peer: peer.name, figures: {}, missing: [], atCeiling: [], failures: 0 };
  const wanted = (work: Work) => options.works.includes(work) && peer.without[work] === undefined;
  const floods = FLOODS.filter(wanted);
  if (floods.length > 0) {
    await lab.offloads("off");
    await lab.takeFloods(BALANCER_CORE);
    await proveRewrite(lab, peer, forwarder.running);
    await lab.dropFloods();
    for (const kind of floods) {
      goOn();
      await flood(lab, peer, kind, options, guesses, result);
    }
  }
  const connections = new Connections(lab, peer, forwarder.running, options, result);
  if (peer.runs === "kernel") await lab.kernelForwardsOn(BALANCER_CORE);
  for (const state of peer.runs === "xdp" ? (["off"] as const) : (["on", "off"] as const)) {
    if (!wanted("connect") && !wanted("bulk")) break;
    await lab.offloads(state);
    // What has a program at XDP is polled.
    if (peer.runs === "xdp")
      for (const wire of ["front", "back"] as const) await lab.poll(wire, BALANCER_CORE);
    if (wanted("connect")) await connections.fresh(state === "on" ? "connect" : "connect_offloads_off");
    if (wanted("bulk")) await connections.bulk(state === "on" ? "bulk" : "bulk_offloads_off");
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

/** Works over TCP. */
class Connections {
  readonly #lab: WireLab;
  readonly #peer: Forwarder;
  readonly #running: Running | undefined;
  readonly #options: PacketOptions;
  readonly #result: PacketVisit;

  constructor(
    lab: WireLab,
    peer: Forwarder,
    running: Running | undefined,
    options: PacketOptions,
    result: PacketVisit,
  ) {
    this.#lab = lab;
    this.#peer = peer;
    this.#running = running;
    this.#options = options;
    this.#result = result;
  }

  /** A connection a request, 64 at a time. */
  async fresh(name: Named<"connect">): Promise<void> {
    const run = await this.#load(name, ["requests", "--fresh", "--connections", "64"]);
    if (run === undefined || run.requests === 0) return;
    const { figures } = this.#result;
    figures[`${name}_connections_per_s`] = run.requests / run.window_s;
    figures[`${name}_core_us_per_connection`] = (run.core_s / run.requests) * 1e6;
    figures[`${name}_core_used`] = run.core_s / run.window_s;
  }

  /** Four connections, download. */
  async bulk(name: Named<"bulk">): Promise<void> {
    const run = await this.#load(name, ["bulk", "--connections", "4"]);
    if (run === undefined || run.bytes === 0) return;
    const { figures } = this.#result;
    figures[`${name}_gbit_per_s`] = (run.bytes * 8) / 1e9 / run.window_s;
    figures[`${name}_core_s_per_gb`] = run.core_s / (run.bytes / 1e9);
    figures[`${name}_core_used`] = run.core_s / run.window_s;
  }

  async #load(name: string, args: readonly string[]): Promise<LoadResult | undefined> {
    goOn();
    const prefix = this.#lab.at("client", "taskset", "-c", String(OTHER_CORE));
    const target = `${this.#peer.connectTo}:${net.tcpPort}`;
    const hold = [...prefix, await loadgenPath(), "hold", "--connect", target, "--connections", "1"];
    await until(
      async () => (await finish(hold, { timeoutMs: 2_000 })).code === 0,
      `connection through ${this.#peer.name}`,
      10_000,
      () => this.#running?.output() ?? "",
    );
    const run = await unstolen(async () => {
      const seen = await load(
        [
          ...[...args, "--connect", target, "--core", String(BALANCER_CORE)],
          ...["--duration", String(this.#options.seconds), "--warmup", String(this.#options.warmupSeconds)],
        ],
        { prefix },
      );
      this.#result.failures += failed(seen);
      return seen;
    });
    if (run === undefined) this.#result.missing.push(`${name}: ${STOLEN}`);
    return run;
  }
}

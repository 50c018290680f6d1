/** What a reload of 1,000 servers costs the traffic that goes on meanwhile, through the tc program in passthrough. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Product, runConvey } from "../../support/convey.ts";
import { folder } from "../../support/peers.ts";
import { succeed, until } from "../../support/processes.ts";
import { row } from "../report.ts";
import { benchExample } from "./examples.ts";
import { parseSeen } from "./flood.ts";
import { net, WireLab } from "./lab.ts";
import { BALANCER_CORE, OTHER_CORE } from "./peers.ts";
import type { Section } from "./section.ts";

const SERVERS = 1000;
const RATE = 100_000;
const FLOWS = 4096;

/** Servers are behind a gateway that nobody is. */
const NETWORK = "10.80.0.0/16";

type Change = "none" | "all replaced" | "half of them gone" | "half of them at weight 0";

interface Reloads {
  change: Change;
  sent: number;
  lost: number;
  /** From the file's replacement until the statistics tell of it, at most. */
  slowestMs: number;
  reloads: number;
}

/** Traffic at a steady rate, while the servers change again and again. */
export async function reload(quick: boolean): Promise<Section> {
  const seconds = quick ? 4 : 10;
  const seen: Reloads[] = [];
  for (const change of ["none", "all replaced", "half of them gone", "half of them at weight 0"] as const) {
    seen.push(await under(change, seconds));
  }
  return {
    name: "reload",
    lines: [
      `### Reloads of ${SERVERS} servers through tc, passthrough: ${RATE / 1000} kpps of ${FLOWS} UDP flows meanwhile`,
      "",
      row(["change, and back", "reloads", "packets sent", "lost", "slowest until in service, ms"]),
      row(["---", "---:", "---:", "---:", "---:"]),
      ...seen.map((s) =>
        row([s.change, ...[s.reloads, s.sent, s.lost].map(String), s.reloads ? s.slowestMs.toFixed(0) : ""]),
      ),
      "",
      "What is lost without a change is the machine's share. In service: parsed, checked and in the maps, as /stats tells,",
      "asked every 10 ms; how long the maps alone take tells `--only scale`.",
    ],
    figures: seen,
  };
}

async function under(change: Change, seconds: number): Promise<Reloads> {
  await using lab = await WireLab.create();
  await lab.sh("balancer", `ip route add ${NETWORK} via ${net.sink} dev front`);
  const file = join(folder("bench"), "convey.toml");
  writeFileSync(file, configuration("none"));
  const prefix = lab.at("balancer", "taskset", "-c", String(BALANCER_CORE));
  await using product = await runConvey(file, prefix);
  await lab.offloads("off");
  await lab.takeFloods(BALANCER_CORE);
  await lab.dropFloods(NETWORK);
  const flooding = send(lab, seconds);
  const result: Reloads = { change, sent: 0, lost: 0, slowestMs: 0, reloads: 0 };
  if (change !== "none") {
    const end = Date.now() + (seconds - 1) * 1000;
    await sleep(500);
    while (Date.now() < end) {
      const to = result.reloads % 2 === 0 ? change : "none";
      result.slowestMs = Math.max(result.slowestMs, await inService(product, configuration(to)));
      result.reloads++;
      await sleep(300);
    }
  }
  const { offered, delivered, seconds: took } = await flooding;
  result.sent = Math.round(offered * took);
  result.lost = Math.max(0, result.sent - delivered);
  await product.process.stop("SIGTERM");
  return result;
}

async function inService(product: Product, toml: string): Promise<number> {
  const before = (await product.stats()).config_version;
  const begin = performance.now();
  product.replace(toml);
  await until(
    async () => (await product.stats()).config_version > before,
    "the new configuration in service",
    20_000,
    () => product.process.output(),
  );
  return performance.now() - begin;
}

async function send(lab: WireLab, seconds: number): ReturnType<typeof parseSeenLater> {
  const generator = [
    ...["taskset", "-c", String(OTHER_CORE), await benchExample("convey-xdp", "generate"), "front"],
    ...["--seconds", String(seconds), "--flows", String(FLOWS), "--rate", String(RATE), "--from", net.client],
    ...["--to", `${await lab.mac("balancer", "front")}/${net.vip}:${net.udpPort}`],
  ].join(" ");
  return parseSeenLater(lab, generator);
}

async function parseSeenLater(lab: WireLab, generator: string) {
  const counters = `cat /sys/class/net/front/statistics/rx_packets; grep -E '^cpu(${BALANCER_CORE})? ' /proc/stat`;
  // What is under way when sending ends arrives in the pause.
  const script = `${counters}; ${generator}; sleep 0.2; ${counters}`;
  return parseSeen(await succeed(lab.at("client", "sh", "-ec", script), { timeoutMs: 120_000 }));
}

function configuration(change: Change): string {
  const servers = Array.from({ length: SERVERS }, (_, i) => i).filter(
    (i) => change !== "half of them gone" || i % 2 === 0,
  );
  const offset = change === "all replaced" ? 2 * SERVERS : 0;
  const address = (i: number) => `10.80.${(i + offset) >> 8}.${(i + offset) & 255}`;
  return [
    'mode = "passthrough"',
    'engine = "tc"',
    "[stats]",
    "port = 0",
    "[frontends.small]",
    `listen_addr = "${net.vip}:${net.udpPort}"`,
    'protocol = "udp"',
    'backend = "small"',
    "[backends.small]",
    "health_check_interval = 86400",
    "health_check_fall = 1000",
    "health_check_fast_interval_ms = 60000",
    ...servers.flatMap((i) => [
      `[backends.small.servers.s${i + offset}]`,
      `addr = "${address(i)}:${net.udpPort}"`,
      ...(change === "half of them at weight 0" && i % 2 === 0 ? ["weight = 0"] : []),
    ]),
    "",
  ].join("\n");
}

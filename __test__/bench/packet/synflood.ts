/** A SYN flood beside real work, through the tc program in passthrough: open connections, and a client that opens more. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Stats } from "../../../ts/index.ts";
import { runConvey } from "../../support/convey.ts";
import { failed, type LoadResult, loadgenPath, parseResult, startServer } from "../../support/loadgen.ts";
import { folder } from "../../support/peers.ts";
import { type Running, start } from "../../support/processes.ts";
import { row } from "../report.ts";
import { benchExample } from "./examples.ts";
import { net, WireLab } from "./lab.ts";
import { BALANCER_CORE, OTHER_CORE } from "./peers.ts";
import type { Section } from "./section.ts";

/** SYNs a second: what the free ports last for, and up to more than one core forwards. */
const RATES = [0, 2_000, 20_000, 100_000, 300_000, 1_000_000];
const OPEN = 100;
const REQUESTS_PER_S = 1000;
const CONNECTIONS_PER_S = 200;
/** Clients that do not exist; answers to them end at the client's interface. */
const SPOOFED = "198.18.0.0";
/** As the generator writes them: the server does not answer these, so that it is not the server that drowns. */
const SEQUENCE = "0x11223344";

interface Flooded {
  rate: number;
  /** SYNs that were sent a second. */
  sent: number;
  /** Share of them that the balancer forwarded. */
  forwarded: number;
  /** Share of requests over open connections, and of new connections, that was answered. */
  kept: number;
  opened: number;
  openedP99Us: number | undefined;
  /** What became of the rest, by reason: those of a thousand packets and more. */
  rest: Record<string, number>;
}

export async function synFlood(quick: boolean): Promise<Section> {
  const seconds = quick ? 2 : 6;
  const seen: Flooded[] = [];
  for (const rate of quick ? RATES.filter((r) => r !== 20_000) : RATES)
    seen.push(await beside(rate, seconds));
  const share = (value: number) => `${(value * 100).toFixed(2)} %`;
  return {
    name: "synflood",
    lines: [
      `### SYN flood through tc, passthrough, beside ${OPEN} open connections (${REQUESTS_PER_S} requests/s) and a client that` +
        ` makes ${CONNECTIONS_PER_S} connections/s; one server, ${seconds} s`,
      "",
      row(["SYNs/s", "forwarded", "requests answered", "connections served", "their p99, ms", "the rest"]),
      row(["---:", "---:", "---:", "---:", "---:", "---"]),
      ...seen.map((s) =>
        row([
          s.sent.toFixed(0),
          share(s.forwarded),
          share(s.kept),
          share(s.opened),
          s.openedP99Us === undefined ? "" : (s.openedP99Us / 1000).toFixed(1),
          Object.entries(s.rest)
            .map(([reason, count]) => `${reason} ${count}`)
            .join(", "),
        ]),
      ),
      "",
      "Each SYN comes from another address and port; the server does not answer them. The 27,233 ports of the one server",
      "last for that number of half-open connections. Then the oldest that nobody answered is given up for each new one",
      "(port_taken_over), which takes a search of all ports; what arrives faster than that is lost in front of the balancer,",
      "the flood's as well as a real client's. Generator, clients and server share a core, which bounds the rate.",
    ],
    figures: seen,
  };
}

async function beside(rate: number, seconds: number): Promise<Flooded> {
  await using lab = await WireLab.create();
  const aside = ["taskset", "-c", String(OTHER_CORE)];
  const server = await startServer({
    prefix: lab.at("server", ...aside),
    listen: `${net.server}:${net.tcpPort}`,
  });
  await using _server = server.process;
  const drop = `tcp flags & (syn | ack) == syn @th,32,32 ${SEQUENCE} counter drop`;
  await lab.sh(
    "server",
    `nft 'table netdev bench { chain in { type filter hook ingress device back priority 0; ${drop}; }; }'`,
  );
  const file = join(folder("bench"), "convey.toml");
  writeFileSync(file, configuration());
  await using product = await runConvey(file, lab.at("balancer", "taskset", "-c", String(BALANCER_CORE)));
  await lab.takeFloods(BALANCER_CORE);
  const target = `${net.vip}:${net.tcpPort}`;
  const work = async (...args: string[]) =>
    start([
      ...lab.at("client", ...aside, await loadgenPath()),
      ...[
        "requests",
        "--connect",
        target,
        "--timeout",
        "2",
        "--warmup",
        "1",
        "--duration",
        String(seconds),
        ...args,
      ],
    ]);
  await using kept = await work("--connections", String(OPEN), "--rate", String(REQUESTS_PER_S));
  await using opened = await work("--fresh", "--connections", "400", "--rate", String(CONNECTIONS_PER_S));
  // Both have begun to count, and all connections are open.
  await sleep(1_000);
  await using flooding = rate === 0 ? undefined : await flood(lab, rate, seconds);
  const [keptResult, openedResult] = await Promise.all([result(kept), result(opened)]);
  await flooding?.exited;
  const [, count = "0", took = "1"] = /sent (\d+) in ([\d.]+) s/.exec(flooding?.stdout ?? "") ?? [];
  const seen = {
    rate,
    sent: Number(count) / Number(took),
    forwarded: rate === 0 ? 1 : (await dropped(lab)) / Number(count),
    kept: share(keptResult, REQUESTS_PER_S),
    opened: share(openedResult, CONNECTIONS_PER_S),
    openedP99Us: openedResult.latency_us?.p99,
    rest: many(await product.stats()),
  };
  await product.process.stop("SIGTERM");
  return seen;
}

async function flood(lab: WireLab, rate: number, seconds: number): Promise<Running> {
  return start([
    ...lab.at(
      "client",
      "taskset",
      "-c",
      String(OTHER_CORE),
      await benchExample("convey-xdp", "generate"),
      "front",
    ),
    ...["--seconds", String(seconds), "--syn", "--rate", String(rate), "--from", SPOOFED],
    ...["--to", `${await lab.mac("balancer", "front")}/${net.vip}:${net.tcpPort}`],
  ]);
}

async function result(load: Running): Promise<LoadResult> {
  const { code } = await load.exited;
  if (code !== 0) throw new Error(`the load generator failed: ${load.output()}`);
  return parseResult(load.stdout);
}

/** Of what was due, the share that was answered: what waited longer than its timeout, or never began, was not. */
function share(seen: LoadResult, rate: number): number {
  const due = Math.max(rate * seen.window_s, seen.requests + failed(seen));
  return seen.requests / due;
}

function many({ packets }: Stats): Record<string, number> {
  const all = Object.entries({
    ...packets?.passed,
    ...packets?.replied,
    ...packets?.dropped,
    ...packets?.noted,
  });
  return Object.fromEntries(all.filter(([, count]) => count >= 1000));
}

/** SYNs of the flood that came to the server. */
async function dropped(lab: WireLab): Promise<number> {
  const [, packets = "0"] =
    /counter packets (\d+)/.exec(await lab.sh("server", "nft list table netdev bench")) ?? [];
  return Number(packets);
}

function configuration(): string {
  return [
    'mode = "passthrough"',
    'engine = "tc"',
    "[stats]",
    "port = 0",
    "[frontends.web]",
    `listen_addr = "${net.vip}:${net.tcpPort}"`,
    'backend = "web"',
    "[backends.web.servers.one]",
    `addr = "${net.server}:${net.tcpPort}"`,
    "",
  ].join("\n");
}

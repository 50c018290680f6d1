/** What forwards packets between the wires of the lab. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { example } from "../../net/lab/balancer.ts";
import { CONVEY, folder } from "../../support/peers.ts";
import { type Running, start } from "../../support/processes.ts";
import { net, type WireLab } from "./lab.ts";

export type Work = "small" | "scattered" | "bulk";

export interface Forwarder {
  name: string;
  works: readonly Work[];
  /** Where clients of the flood send to. */
  floodTo: string;
  /** Where clients of the bulk transfer connect. */
  bulkTo: string;
  /** Sets it up, and returns its process where it has one. */
  begin(lab: WireLab): Promise<Running | undefined>;
}

/** The balancer has this core for itself, processes by affinity and kernel forwarding by packet steering. */
export const BALANCER_CORE = 1;

/** Everybody else: generator, client and server. */
export const OTHER_CORE = 0;

export const FORWARDERS: readonly Forwarder[] = [
  {
    name: "convey",
    works: ["small", "scattered", "bulk"],
    floodTo: net.vip,
    bulkTo: net.vip,
    begin: (lab) => convey(lab, "passthrough"),
  },
  {
    name: "convey-dsr",
    works: ["small"],
    floodTo: net.vip,
    bulkTo: net.vip,
    begin: (lab) => convey(lab, "dsr"),
  },
  { name: "one-call", works: ["small", "scattered"], floodTo: net.vip, bulkTo: net.vip, begin: oneCall },
  {
    name: "nft-dnat",
    works: ["small", "scattered", "bulk"],
    floodTo: net.vip,
    bulkTo: net.vip,
    begin: nftDnat,
  },
  {
    name: "routing",
    works: ["small", "scattered", "bulk"],
    floodTo: net.sink,
    bulkTo: net.server,
    begin: routing,
  },
];

function pinned(lab: WireLab, ...command: string[]): string[] {
  return lab.at("balancer", "taskset", "-c", String(BALANCER_CORE), ...command);
}

async function convey(lab: WireLab, mode: "passthrough" | "dsr"): Promise<Running> {
  const frontend = (name: string, protocol: string, port: number, server: string) => [
    `[frontends.${name}]`,
    `listen_addr = "${net.vip}:${port}"`,
    `protocol = "${protocol}"`,
    `backend = "${name}"`,
    `[backends.${name}]`,
    // Nobody answers for the flood's server, and it is to stay up.
    "health_check_interval = 86400",
    "health_check_fall = 1000",
    "health_check_fast_interval_ms = 60000",
    `[backends.${name}.servers.one]`,
    `addr = "${server}:${port}"`,
  ];
  const lines = [
    `mode = "${mode}"`,
    'engine = "af_packet"',
    "[stats]",
    "port = 0",
    "[passthrough]",
    "workers = 1",
    ...frontend("small", "udp", net.udpPort, net.sink),
    ...frontend("bulk", "tcp", net.tcpPort, net.server),
    "",
  ];
  const file = join(folder("bench"), "convey.toml");
  writeFileSync(file, lines.join("\n"));
  const running = start(pinned(lab, process.execPath, CONVEY, "run", "-c", file));
  await ready(running, /is ready/);
  return running;
}

async function oneCall(lab: WireLab): Promise<Running> {
  const rule = `ip daddr ${net.vip} udp dport ${net.udpPort} drop`;
  await lab.sh(
    "balancer",
    `nft 'table netdev bench { chain in { type filter hook ingress device front priority 0; ${rule}; }; }'`,
  );
  const socket = (address: string) => `${address}:${net.udpPort}`;
  const running = start(
    pinned(
      lab,
      await example("one_call"),
      "front",
      socket(net.vip),
      socket(net.sink),
      net.sinkMac,
      await lab.mac("client", "front"),
    ),
  );
  await ready(running, /^ready$/m);
  return running;
}

/** Destination and source are rewritten, as passthrough does it; flows stay in the connection table. */
async function nftDnat(lab: WireLab): Promise<undefined> {
  const dnat = (protocol: string, port: number, server: string) =>
    `ip daddr ${net.vip} ${protocol} dport ${port} dnat to ${server}:${port};`;
  await lab.sh(
    "balancer",
    `nft 'table ip bench {
       chain pre { type nat hook prerouting priority dstnat; ${dnat("udp", net.udpPort, net.sink)}
         ${dnat("tcp", net.tcpPort, net.server)} }
       chain post { type nat hook postrouting priority srcnat;
         ct status dnat snat to ${net.vip}; }
     }'`,
  );
  await lab.kernelForwardsOn(BALANCER_CORE);
}

async function routing(lab: WireLab): Promise<undefined> {
  await lab.kernelForwardsOn(BALANCER_CORE);
}

async function ready(running: Running, pattern: RegExp): Promise<void> {
  try {
    await running.waitFor(pattern, 20_000);
  } catch (error) {
    await running.stop("SIGKILL");
    throw error;
  }
}

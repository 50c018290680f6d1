/** What forwards packets between the wires of the lab. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { example } from "../../net/lab/examples.ts";
import { CONVEY, folder } from "../../support/peers.ts";
import { type Running, start } from "../../support/processes.ts";
import { type Added, fill, parseAdded } from "../added.ts";
import { net, type WireLab } from "./lab.ts";

export type Work = "small" | "scattered" | "connect" | "bulk";

export interface Forwarder {
  name: string;
  /** Works it is not measured in, and why. */
  without: Partial<Record<Work, string>>;
  /** Where clients of the flood send to. */
  floodTo: string;
  /** Where clients of TCP connect. */
  connectTo: string;
  /** Sets it up, and returns its process where it has one. */
  begin(lab: WireLab): Promise<Running | undefined>;
}

/** The balancer has this core for itself, processes by affinity and kernel forwarding by packet steering. */
export const BALANCER_CORE = 1;

/** Everybody else: generator, client and server. */
export const OTHER_CORE = 0;

const THROUGH = { floodTo: net.vip, connectTo: net.vip };
const UDP_ONLY = "it forwards UDP alone";
const PAST = "answers do not pass through it";

const OURS = { name: "convey", command: `'${process.execPath}' '${CONVEY}' run -c {config}` };

/** The built-in forwarders and, twice, every build of convey that the reader added. */
export function forwarders(added: string | undefined): Forwarder[] {
  return [
    ...builds(OURS),
    {
      name: "convey-af_xdp",
      ...THROUGH,
      without: {},
      begin: (lab) => convey(lab, OURS, "passthrough", "af_xdp"),
    },
    ...parseAdded(added ?? "").flatMap(builds),
    { name: "one-call", ...THROUGH, without: { connect: UDP_ONLY, bulk: UDP_ONLY }, begin: oneCall },
    { name: "nft-dnat", ...THROUGH, without: {}, begin: nftDnat },
    { name: "routing", floodTo: net.sink, connectTo: net.server, without: {}, begin: routing },
  ];
}

function builds(build: Added): Forwarder[] {
  return [
    { name: build.name, ...THROUGH, without: {}, begin: (lab) => convey(lab, build, "passthrough") },
    { name: `${build.name}-dsr`, ...THROUGH, without: { bulk: PAST }, begin: (lab) => dsr(lab, build) },
  ];
}

async function dsr(lab: WireLab, build: Added): Promise<Running> {
  await lab.answerAround();
  return convey(lab, build, "dsr");
}

function pinned(lab: WireLab, ...command: string[]): string[] {
  return lab.at("balancer", "taskset", "-c", String(BALANCER_CORE), ...command);
}

async function convey(
  lab: WireLab,
  build: Added,
  mode: "passthrough" | "dsr",
  engine = "af_packet",
): Promise<Running> {
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
    `engine = "${engine}"`,
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
  const running = start(pinned(lab, ...fill(build, { config: file })));
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
      await example("one_call", "release"),
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

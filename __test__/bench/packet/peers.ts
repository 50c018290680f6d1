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
  /** Who forwards: a process that reads from sockets, the kernel, or a program at XDP. */
  runs: "process" | "kernel" | "xdp";
  /** Sets it up, and returns its process where it has one. */
  begin(lab: WireLab): Promise<Running | undefined>;
}

/** The balancer has this core for itself, processes by affinity and kernel forwarding by packet steering. */
export const BALANCER_CORE = 1;

/** Everybody else: generator, client and server. */
export const OTHER_CORE = 0;

/** Why XDP is not measured with offloads on. */
export const NO_OFFLOADS = "frames reach XDP without what their device is to do: offloads are off";

const THROUGH = { floodTo: net.vip, connectTo: net.vip };
const UDP_ONLY = "it forwards UDP alone";
const PAST = "answers do not pass through it";
const NO_BALANCER = "there is no balancer";

/** Every engine is a peer of its own. */
const ENGINES = { tc: "kernel", xdp: "xdp", af_xdp: "xdp", af_packet: "process" } as const;

export type Engine = keyof typeof ENGINES;

/** Whether the peer of this name is an engine of the build that is measured. */
export function isEngine(peer: string): boolean {
  return Object.keys(ENGINES).includes(peer.replace(/-dsr$/, ""));
}

const OURS = { name: "", command: `'${process.execPath}' '${CONVEY}' run -c {config}` };

/** Peers that are measured unless others are asked for; builds that the reader added are, too. */
export const USUAL_PEERS: readonly string[] = [
  ...["tc", "tc-dsr", "xdp", "af_xdp", "af_packet", "nft-dnat", "direct", "routing"],
];

/** By engine, in passthrough and as `<engine>-dsr`; the same of every build that the reader added, `<name>-<engine>`. */
export function forwarders(added: string | undefined): Forwarder[] {
  return [
    ...builds(OURS),
    ...parseAdded(added ?? "").flatMap(builds),
    {
      name: "one-call",
      ...THROUGH,
      runs: "process",
      without: { connect: UDP_ONLY, bulk: UDP_ONLY },
      begin: oneCall,
    },
    { name: "nft-dnat", ...THROUGH, runs: "kernel", without: {}, begin: nftDnat },
    {
      name: "direct",
      floodTo: net.sink,
      connectTo: net.server,
      runs: "kernel",
      without: { small: NO_BALANCER, scattered: NO_BALANCER },
      begin: async (lab) => void (await lab.connectAround()),
    },
    {
      name: "routing",
      floodTo: net.sink,
      connectTo: net.server,
      runs: "kernel",
      without: {},
      begin: async () => undefined,
    },
  ];
}

function builds(build: Added): Forwarder[] {
  return Object.entries(ENGINES).flatMap(([engine, runs]) => {
    const name = build.name === "" ? engine : `${build.name}-${engine}`;
    const begin = (mode: "passthrough" | "dsr") => async (lab: WireLab) => {
      if (runs === "xdp") await lab.prepareXdp();
      if (mode === "dsr") await lab.answerAround();
      return convey(lab, build, mode, engine as Engine);
    };
    return [
      { name, ...THROUGH, runs, without: {}, begin: begin("passthrough") },
      { name: `${name}-dsr`, ...THROUGH, runs, without: { bulk: PAST }, begin: begin("dsr") },
    ];
  });
}

function pinned(lab: WireLab, ...command: string[]): string[] {
  return lab.at("balancer", "taskset", "-c", String(BALANCER_CORE), ...command);
}

async function convey(
  lab: WireLab,
  build: Added,
  mode: "passthrough" | "dsr",
  engine: Engine,
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
}

async function ready(running: Running, pattern: RegExp): Promise<void> {
  try {
    await running.waitFor(pattern, 20_000);
  } catch (error) {
    await running.stop("SIGKILL");
    throw error;
  }
}

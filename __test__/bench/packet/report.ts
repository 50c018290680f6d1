/** The tables of the packet bench: absolute figures, and convey's ratios to the peers and against the targets. */
import { counted, digits, QUICK, range, row, words } from "../report.ts";
import {
  absolute,
  control,
  type Decision,
  decide,
  noise,
  paired,
  type Spread,
  spread,
} from "../statistics.ts";
import type { PacketOptions } from "./options.ts";
import { type Forwarder, isEngine, NO_OFFLOADS, type Work } from "./peers.ts";
import type { Section } from "./section.ts";
import type { PacketFigure, PacketVisit } from "./visit.ts";

/** Visits of one round, there and back. */
export type PacketRound = readonly PacketVisit[];

const FIGURES: readonly PacketFigure[] = [
  "small_kpps",
  "small_generator_kpps",
  "small_core_ns_per_packet",
  "small_core_used",
  "scattered_kpps",
  "scattered_generator_kpps",
  "scattered_core_ns_per_packet",
  "scattered_core_used",
  "connect_connections_per_s",
  "connect_core_us_per_connection",
  "connect_core_used",
  "connect_offloads_off_connections_per_s",
  "connect_offloads_off_core_us_per_connection",
  "connect_offloads_off_core_used",
  "bulk_gbit_per_s",
  "bulk_core_s_per_gb",
  "bulk_core_used",
  "bulk_offloads_off_gbit_per_s",
  "bulk_offloads_off_core_s_per_gb",
  "bulk_offloads_off_core_used",
];

/** Figures whose ratios are told; what is left out of {@link FIGURES} says how a run went. */
const COMPARED: readonly PacketFigure[] = FIGURES.filter((figure) => !/_used$|_generator_/.test(figure));

interface Target {
  peer: string;
  figure: PacketFigure;
  other: string;
  /** `peer` ÷ `other` must be at least this. */
  atLeast: number;
}

const TARGETS: readonly Target[] = [
  { peer: "tc", figure: "bulk_gbit_per_s", other: "routing", atLeast: 0.95 },
  { peer: "tc", figure: "bulk_gbit_per_s", other: "nft-dnat", atLeast: 1 },
  { peer: "tc", figure: "bulk_offloads_off_gbit_per_s", other: "routing", atLeast: 0.95 },
  { peer: "tc", figure: "bulk_offloads_off_gbit_per_s", other: "nft-dnat", atLeast: 1 },
  { peer: "tc", figure: "scattered_kpps", other: "nft-dnat", atLeast: 1.3 },
  { peer: "tc", figure: "connect_connections_per_s", other: "nft-dnat", atLeast: 1 },
  { peer: "tc-dsr", figure: "connect_connections_per_s", other: "nft-dnat", atLeast: 1 },
  { peer: "xdp", figure: "scattered_kpps", other: "nft-dnat", atLeast: 2 },
  { peer: "af_xdp", figure: "scattered_kpps", other: "af_packet", atLeast: 1 },
  { peer: "af_packet", figure: "small_kpps", other: "one-call", atLeast: 5 },
  { peer: "af_packet", figure: "scattered_kpps", other: "one-call", atLeast: 5 },
  { peer: "af_packet", figure: "bulk_gbit_per_s", other: "nft-dnat", atLeast: 0.5 },
];

/** What every engine's rates are set beside. */
const BESIDE = ["nft-dnat", "routing", "direct"];

export interface Comparison {
  figure: PacketFigure;
  peer: string;
  other: string;
  ratio: Spread;
  /** Median distance of the A/A control from 1. */
  noise: number;
  decision: Decision;
  /** Where there is one: the bound, and what became of it. */
  target: { atLeast: number; outcome: "met" | "missed" | Exclude<Decision, "decided"> } | undefined;
}

/** What has a target; each engine's rates beside those of the kernel; builds of an engine beside each other. */
export function compare(rounds: readonly PacketRound[], peers: readonly Forwarder[]): Comparison[] {
  const names = peers.map(({ name }) => name);
  const bound = (peer: string, figure: PacketFigure, other: string) =>
    TARGETS.find((t) => t.peer === peer && t.figure === figure && t.other === other)?.atLeast;
  return COMPARED.flatMap((figure) =>
    names.flatMap((peer) =>
      names.flatMap((other) => {
        const atLeast = bound(peer, figure, other);
        const isBuild = other.endsWith(`-${peer}`);
        const isRate = /kpps$|per_s$/.test(figure);
        const isBeside = isEngine(peer) && BESIDE.includes(other) && isRate;
        const ratio =
          atLeast === undefined && !isBuild && !isBeside ? undefined : paired(rounds, peer, other, figure);
        if (ratio === undefined) return [];
        const distance = noise(control(rounds, names, figure));
        const target =
          atLeast === undefined ? undefined : { atLeast, outcome: outcome(ratio, distance, atLeast) };
        return [{ figure, peer, other, ratio, noise: distance, decision: decide(ratio, distance), target }];
      }),
    ),
  );
}

function outcome(
  ratio: Spread,
  distance: number,
  atLeast: number,
): "met" | "missed" | Exclude<Decision, "decided"> {
  const decision = decide(ratio, distance, atLeast);
  if (decision !== "decided") return decision;
  return ratio.median >= atLeast ? "met" : "missed";
}

/** Everything as Markdown. */
export function packetMarkdown(
  rounds: readonly PacketRound[],
  options: PacketOptions,
  sections: readonly Section[],
): string {
  const names = options.peers.map(({ name }) => name);
  const lines = ["## Packet modes", "", ...(options.quick ? [QUICK, ""] : [])];
  if (rounds.length > 0) {
    lines.push(
      ...explained(rounds, options),
      "",
      row(["figure", ...names, "A/A"]),
      row(["---", ...names.map(() => "---:"), "---:"]),
      ...FIGURES.flatMap((figure) => {
        const cells = options.peers.map((peer) => cell(rounds, peer, figure));
        if (names.every((name) => absolute(rounds, name, figure) === undefined)) return [];
        const aa = spread(control(rounds, names, figure));
        return [row([words(figure), ...cells, aa ? range(aa) : "one visit a round"])];
      }),
      "",
      ...ratios(compare(rounds, options.peers)),
      "",
      ...notes(rounds, options.peers),
    );
  }
  for (const section of sections) lines.push("", ...section.lines);
  return lines.join("\n");
}

/** Those with a target first. */
function ratios(all: readonly Comparison[]): string[] {
  const rows = [...all.filter((v) => v.target), ...all.filter((v) => !v.target)];
  return [
    row(["ratio", "of", "median [range]", "A/A ±", "difference", "target"]),
    row(["---", "---", "---:", "---:", "---", "---"]),
    ...rows.map((v) =>
      row([
        `${v.peer} ÷ ${v.other}`,
        words(v.figure),
        range(v.ratio),
        Number.isFinite(v.noise) ? v.noise.toFixed(3) : "unknown",
        v.decision,
        v.target === undefined ? "" : `≥ ${v.target.atLeast.toFixed(2)}: ${v.target.outcome}`,
      ]),
    ),
  ];
}

function explained(rounds: readonly PacketRound[], options: PacketOptions): string[] {
  return [
    `Medians of ${rounds.length} rounds, runs of ${options.seconds} s. The balancer has core 1, generator, client and server core` +
      " 0. scattered: UDP of 60 bytes, no two of a flow behind each other, offloads off; small: the same in runs of 64 of" +
      " a flow; connect: a TCP connection for each 1 KB request, 64 at a time; bulk: 4 TCP connections, download.",
    "",
    `kpps is the highest rate at which less than ${options.loss * 100} % is lost, offered evenly and counted where it` +
      " arrives, then dropped; generator kpps what could be offered at most. The balancer's wire is polled by a thread on" +
      " core 1. core ns, us and s are the busy time of core 1 over the units of work, whoever had it: polling, the" +
      " forwarder, the sending and the receiver's interrupt for what it sends. Over connections the kernel's forwarding is" +
      " steered there; a process of its own reads from a socket that the sender's core fills, and that copy is not in it." +
      " core used is the share of the time core 1 was busy.",
  ];
}

function cell(rounds: readonly PacketRound[], peer: Forwarder, figure: PacketFigure): string {
  const seen = absolute(rounds, peer.name, figure);
  if (seen !== undefined) return digits(seen.median);
  const hasReason =
    peer.without[figure.split("_")[0] as Work] !== undefined || isWithoutOffloads(peer, figure);
  return hasReason ? "n/a" : "missing";
}

function isWithoutOffloads(peer: Forwarder, figure: PacketFigure): boolean {
  return peer.runs === "xdp" && /^(connect|bulk)_(?!offloads_off)/.test(figure);
}

/** Why cells have no figure, and what else a reader must know. */
function notes(rounds: readonly PacketRound[], peers: readonly Forwarder[]): string[] {
  const visits = rounds.flat();
  const failures = visits.reduce((sum, visit) => sum + visit.failures, 0);
  const without = peers.flatMap(({ name, without }) =>
    Object.entries(without).map(([work, reason]) => `- n/a: ${name} has no ${work}: ${reason}`),
  );
  const xdp = peers.filter(({ runs }) => runs === "xdp").map(({ name }) => name);
  return [
    `- broken connections: ${failures}`,
    ...without,
    ...(xdp.length > 0 ? [`- n/a with offloads on: ${xdp.join(", ")}: ${NO_OFFLOADS}`] : []),
    ...counted(visits.flatMap(({ peer, missing }) => missing.map((m) => `missing: ${peer}, ${m}`))),
    ...counted(
      visits.flatMap(({ peer, atCeiling }) =>
        atCeiling.map((kind) => `generator was the limit: ${peer}, ${kind}; its rate is a lower bound`),
      ),
    ),
  ];
}

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
import type { Forwarder, Work } from "./peers.ts";
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
  figure: PacketFigure;
  other: string;
  /** convey ÷ `other` must be at least this. */
  atLeast: number;
}

const TARGETS: readonly Target[] = [
  { figure: "small_kpps", other: "one-call", atLeast: 5 },
  { figure: "scattered_kpps", other: "one-call", atLeast: 5 },
  { figure: "bulk_gbit_per_s", other: "nft-dnat", atLeast: 0.5 },
];

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

/** The builds of convey beside every other peer: passthrough to all, DSR to all but passthrough. */
export function compare(rounds: readonly PacketRound[], names: readonly string[]): Comparison[] {
  const pairs = ["convey", "convey-dsr"].flatMap((peer) => {
    const others = names.filter(
      (name) => name.endsWith("-dsr") === peer.endsWith("-dsr") || !isBuild(name, names),
    );
    return others.filter((other) => other !== peer).map((other) => ({ peer, other }));
  });
  return COMPARED.flatMap((figure) =>
    pairs.flatMap(({ peer, other }) => {
      const ratio = paired(rounds, peer, other, figure);
      if (ratio === undefined) return [];
      const distance = noise(control(rounds, names, figure));
      const bound = TARGETS.find(
        (t) => peer === "convey" && t.figure === figure && t.other === other,
      )?.atLeast;
      const target =
        bound === undefined ? undefined : { atLeast: bound, outcome: outcome(ratio, distance, bound) };
      return [{ figure, peer, other, ratio, noise: distance, decision: decide(ratio, distance), target }];
    }),
  );
}

function isBuild(name: string, names: readonly string[]): boolean {
  return name.endsWith("-dsr") || names.includes(`${name}-dsr`);
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

/** Everything as Markdown; `tables` is what the flow table's own bench printed. */
export function packetMarkdown(
  rounds: readonly PacketRound[],
  options: PacketOptions,
  tables: readonly string[],
): string {
  const names = options.peers.map(({ name }) => name);
  const lines = [
    "## af_packet: one worker on core 1, generator, client and server on core 0",
    "",
    ...(options.quick ? [QUICK, ""] : []),
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
    row(["ratio", "of", "median [range]", "A/A ±", "difference", "target"]),
    row(["---", "---", "---:", "---:", "---", "---"]),
    ...compare(rounds, names).map((v) =>
      row([
        `${v.peer} ÷ ${v.other}`,
        words(v.figure),
        range(v.ratio),
        Number.isFinite(v.noise) ? v.noise.toFixed(3) : "unknown",
        v.decision,
        v.target === undefined ? "" : `≥ ${v.target.atLeast.toFixed(2)}: ${v.target.outcome}`,
      ]),
    ),
    "",
    ...notes(rounds, options.peers),
  ];
  if (tables.length > 0) lines.push("", "```text", ...tables, "```");
  return lines.join("\n");
}

function explained(rounds: readonly PacketRound[], options: PacketOptions): string[] {
  return [
    `Medians of ${rounds.length} rounds, runs of ${options.seconds} s. small: UDP of 60 bytes, in runs of 64 packets of a` +
      " flow, offloads off; scattered: the same without runs; connect: a TCP connection for each 1 KB request, 64 at a" +
      " time; bulk: 4 TCP connections, download.",
    "",
    `kpps is the highest rate at which less than ${options.loss * 100} % is lost, offered evenly and counted where it` +
      " arrives, then dropped; generator kpps what could be offered at most. core ns, us and s are the busy time of" +
      " core 1 over the units of work, whoever had it: the forwarder, the kernel's forwarding (steered there), the" +
      " sending and the receiver's interrupt for what it sends. A process of its own reads from a socket that the" +
      " sender's core fills: that copy is not in it. core used is the share of the time core 1 was busy.",
  ];
}

function cell(rounds: readonly PacketRound[], peer: Forwarder, figure: PacketFigure): string {
  const seen = absolute(rounds, peer.name, figure);
  if (seen !== undefined) return digits(seen.median);
  return peer.without[figure.split("_")[0] as Work] === undefined ? "missing" : "n/a";
}

/** Why cells have no figure, and what else a reader must know. */
function notes(rounds: readonly PacketRound[], peers: readonly Forwarder[]): string[] {
  const visits = rounds.flat();
  const failures = visits.reduce((sum, visit) => sum + visit.failures, 0);
  const without = peers.flatMap(({ name, without }) =>
    Object.entries(without).map(([work, reason]) => `- n/a: ${name} has no ${work}: ${reason}`),
  );
  return [
    `- broken connections: ${failures}`,
    ...without,
    ...counted(visits.flatMap(({ peer, missing }) => missing.map((m) => `missing: ${peer}, ${m}`))),
    ...counted(
      visits.flatMap(({ peer, atCeiling }) =>
        atCeiling.map((kind) => `generator was the limit: ${peer}, ${kind}; its rate is a lower bound`),
      ),
    ),
  ];
}

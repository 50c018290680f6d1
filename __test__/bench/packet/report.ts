/** The tables of the packet bench: absolute figures, and convey's ratios against the targets. */
import { digits, range, row, words } from "../report.ts";
import { absolute, control, noise, paired, type Spread, spread } from "../statistics.ts";
import type { PacketFigure, PacketVisit } from "./visit.ts";

/** Visits of one round, there and back. */
export type PacketRound = readonly PacketVisit[];

const FIGURES: readonly PacketFigure[] = [
  "small_kpps",
  "small_offered_kpps",
  "small_cpu_ns_per_packet",
  "small_cores_used",
  "scattered_kpps",
  "scattered_offered_kpps",
  "scattered_cpu_ns_per_packet",
  "scattered_cores_used",
  "bulk_gbit_per_s",
  "bulk_cpu_s_per_gb",
  "bulk_offloads_off_gbit_per_s",
  "bulk_offloads_off_cpu_s_per_gb",
];

interface Comparison {
  figure: PacketFigure;
  peer: string;
  other: string;
  /** `peer` ÷ `other` must be at least this; without it the ratio is only shown. */
  atLeast?: number;
  /** Cores used: where a core was not full it was the generator, or a stranger, that was measured. */
  full?: PacketFigure;
}

/** Below this a core was not full. */
const FULL = 0.9;

const COMPARISONS: readonly Comparison[] = [
  { figure: "small_kpps", peer: "convey", other: "one-call", atLeast: 5, full: "small_cores_used" },
  { figure: "small_kpps", peer: "convey", other: "nft-dnat" },
  { figure: "small_kpps", peer: "convey", other: "routing" },
  { figure: "small_kpps", peer: "convey-dsr", other: "one-call" },
  { figure: "small_cpu_ns_per_packet", peer: "one-call", other: "convey" },
  { figure: "scattered_kpps", peer: "convey", other: "one-call", atLeast: 5, full: "scattered_cores_used" },
  { figure: "scattered_kpps", peer: "convey", other: "nft-dnat" },
  { figure: "scattered_cpu_ns_per_packet", peer: "one-call", other: "convey" },
  { figure: "bulk_gbit_per_s", peer: "convey", other: "nft-dnat", atLeast: 0.5 },
  { figure: "bulk_gbit_per_s", peer: "convey", other: "routing" },
  { figure: "bulk_offloads_off_gbit_per_s", peer: "convey", other: "nft-dnat" },
  { figure: "bulk_offloads_off_gbit_per_s", peer: "convey", other: "routing" },
];

export interface PacketVerdict extends Comparison {
  ratio: Spread;
  /** Median distance of the A/A control from 1. */
  noise: number;
  /**
   * "unsure": the bound lies within the noise of the ratio; "core not full": `peer` might do more than a miss, or
   * `other` more than a hit shows; "shown": there is no bound.
   */
  outcome: "met" | "missed" | "unsure" | "core not full" | "shown";
}

/** Judges every comparison that was measured. */
export function judgePackets(rounds: readonly PacketRound[], names: readonly string[]): PacketVerdict[] {
  return COMPARISONS.flatMap((comparison) => {
    const { figure, peer, other, atLeast, full } = comparison;
    const ratio = paired(rounds, peer, other, figure);
    if (ratio === undefined) return [];
    const distance = noise(control(rounds, names, figure));
    const result = outcome(ratio.median, distance, atLeast);
    const doubted = result === "missed" ? peer : result === "met" ? other : undefined;
    const cores = full && doubted ? absolute(rounds, doubted, full)?.median : undefined;
    const idle = cores !== undefined && cores < FULL;
    return [{ ...comparison, ratio, noise: distance, outcome: idle ? "core not full" : result }];
  });
}

function outcome(
  ratio: number,
  distance: number,
  atLeast: number | undefined,
): "met" | "missed" | "unsure" | "shown" {
  if (atLeast === undefined) return "shown";
  if (Math.abs(ratio - atLeast) <= 2 * distance * ratio) return "unsure";
  return ratio >= atLeast ? "met" : "missed";
}

/** Everything as Markdown; `tables` is what the flow table's own bench printed. */
export function packetMarkdown(
  rounds: readonly PacketRound[],
  names: readonly string[],
  tables: readonly string[],
): string {
  const visits = rounds.flat();
  const stolen = visits.flatMap((visit) => visit.stolen).length;
  const failures = visits.reduce((sum, visit) => sum + visit.failures, 0);
  const lines = [
    "## af_packet: one worker on core 1, generator, client and server on core 0",
    "",
    `Medians of ${rounds.length} rounds. small: UDP of 60 bytes, in runs of 64 of a flow, offloads off,` +
      " counted where they leave; scattered: the same without runs; bulk: 4 TCP connections, download. nft DNAT and routing run on core 1 by packet steering." +
      ` Runs left out for stolen time: ${stolen}. Broken connections: ${failures}.`,
    "",
    row(["figure", ...names, "A/A"]),
    row(["---", ...names.map(() => "---:"), "---:"]),
    ...FIGURES.flatMap((figure) => {
      const cells = names.map((name) => absolute(rounds, name, figure));
      if (cells.every((cell) => cell === undefined)) return [];
      const aa = spread(control(rounds, names, figure));
      return [row([words(figure), ...cells.map((c) => (c ? digits(c.median) : "–")), aa ? range(aa) : "–"])];
    }),
    "",
    row(["ratio", "of", "median [range]", "target", "A/A ±", ""]),
    row(["---", "---", "---:", "---:", "---:", "---"]),
    ...judgePackets(rounds, names).map((v) =>
      row([
        `${v.peer} ÷ ${v.other}`,
        words(v.figure),
        range(v.ratio),
        v.atLeast === undefined ? "–" : `≥ ${v.atLeast.toFixed(2)}`,
        Number.isFinite(v.noise) ? v.noise.toFixed(3) : "–",
        v.outcome,
      ]),
    ),
  ];
  if (tables.length > 0) lines.push("", "```text", ...tables, "```");
  return lines.join("\n");
}

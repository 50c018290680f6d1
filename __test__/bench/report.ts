/** The tables: absolute figures, and convey's ratios against the targets. */
import { absolute, control, noise, paired, type Round, type Spread, spread } from "./statistics.ts";
import { TARGETS, type Target } from "./targets.ts";
import type { Figure } from "./visit.ts";

/** One setting of the bench and what was seen in it. */
export interface Series {
  profile: string;
  offloads: boolean;
  halfRate: number;
  rounds: Round[];
}

const FIGURES: readonly Figure[] = [
  "bulk_cpu_s_per_gb",
  "bulk_gbit_per_s",
  "keepalive_cpu_us_per_request",
  "keepalive_requests_per_s",
  "keepalive_cores_used",
  "connect_cpu_us_per_connection",
  "connect_connections_per_s",
  "connect_cores_used",
  "half_load_p50_us",
  "half_load_p99_us",
  "idle_bytes_per_pair",
];

export interface Verdict extends Target {
  peer: string;
  ratio: Spread;
  /** Median distance of the A/A control from 1. */
  noise: number;
  /** "unsure": the bound lies within the noise of the ratio. */
  outcome: "met" | "missed" | "unsure";
}

/** Judges every target that was measured; of several peers, the one that is best. */
export function judge(series: Series, names: readonly string[]): Verdict[] {
  return TARGETS.flatMap((target) => {
    const best = target.against
      .flatMap((peer) => {
        const figure = absolute(series.rounds, peer, target.figure);
        return figure ? [{ peer, value: figure.median }] : [];
      })
      .sort((a, b) => (target.better === "less" ? a.value - b.value : b.value - a.value))[0];
    if (best === undefined) return [];
    const ratio = paired(series.rounds, "convey", best.peer, target.figure);
    if (ratio === undefined) return [];
    const distance = noise(control(series.rounds, names, target.figure));
    const met = target.better === "less" ? ratio.median <= target.bound : ratio.median >= target.bound;
    const clear = Math.abs(ratio.median - target.bound) > 2 * distance * ratio.median;
    const outcome: Verdict["outcome"] = clear ? (met ? "met" : "missed") : "unsure";
    return [{ ...target, peer: best.peer, ratio, noise: distance, outcome }];
  });
}

/** Everything as Markdown. */
export function markdown(all: readonly Series[], names: readonly string[]): string {
  return all.map((series) => section(series, names)).join("\n\n");
}

function section(series: Series, names: readonly string[]): string {
  const title =
    series.profile === "one"
      ? "one thread on core 1, everything else on core 0"
      : "two threads, two cores shared with generator and server";
  const stolen = series.rounds.flat().flatMap((visit) => visit.stolen).length;
  const failures = names
    .map((name) => [
      name,
      series.rounds
        .flat()
        .filter((v) => v.peer === name)
        .reduce((n, v) => n + v.failures, 0),
    ])
    .filter(([, count]) => count !== 0)
    .map(([name, count]) => `${name} ${count}`);
  return [
    `## ${title}; offloads ${series.offloads ? "on" : "off"}`,
    "",
    `Medians of ${series.rounds.length} rounds; half load is ${series.halfRate.toFixed(0)} requests/s for everyone.` +
      ` Runs left out for stolen time: ${stolen}. Failed requests: ${failures.join(", ") || "none"}.`,
    "",
    row(["figure", ...names, "A/A"]),
    row(["---", ...names.map(() => "---:"), "---:"]),
    ...FIGURES.flatMap((figure) => {
      const cells = names.map((name) => absolute(series.rounds, name, figure));
      if (cells.every((cell) => cell === undefined)) return [];
      const aa = spread(control(series.rounds, names, figure));
      return [row([words(figure), ...cells.map((c) => (c ? digits(c.median) : "–")), aa ? range(aa) : "–"])];
    }),
    "",
    row(["convey ÷ best peer", "peer", "median [range]", "target", "A/A ±", ""]),
    row(["---", "---", "---:", "---:", "---:", "---"]),
    ...judge(series, names).map((v) =>
      row([
        words(v.figure),
        v.peer,
        range(v.ratio),
        `${v.better === "less" ? "≤" : "≥"} ${v.bound.toFixed(2)}`,
        Number.isFinite(v.noise) ? v.noise.toFixed(3) : "–",
        v.outcome,
      ]),
    ),
  ].join("\n");
}

export function row(cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}

export function words(figure: string): string {
  return figure.replaceAll("_per_", "/").replaceAll("_", " ");
}

export function digits(value: number): string {
  if (Math.abs(value) >= 1000) return value.toFixed(0);
  return value.toPrecision(3);
}

export function range(s: Spread): string {
  return `${s.median.toFixed(3)} [${s.min.toFixed(3)}–${s.max.toFixed(3)}]`;
}

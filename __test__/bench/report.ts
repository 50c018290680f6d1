/** The tables: absolute figures, and convey's ratios to every peer and against the targets. */

import type { Figure } from "./figures.ts";
import type { HalfLoad } from "./half-load.ts";
import type { Options } from "./options.ts";
import {
  absolute,
  control,
  type Decision,
  decide,
  noise,
  paired,
  type Round,
  type Spread,
  spread,
} from "./statistics.ts";
import { TARGETS, type Target } from "./targets.ts";

/** One setting of the bench and what was seen in it. */
export interface Series {
  profile: string;
  offloads: boolean;
  half: HalfLoad;
  rounds: Round[];
}

/** Above every quick table. */
export const QUICK = "**--quick: shows that the bench works. It decides nothing and is not to be quoted.**";

/** Compared with every peer. */
const COMPARED: readonly Figure[] = [
  "bulk_cpu_s_per_gb",
  "bulk_gbit_per_s",
  "keepalive_cpu_us_per_request",
  "keepalive_requests_per_s",
  "keepalive_p50_us",
  "keepalive_p99_us",
  "few_cpu_us_per_request",
  "few_requests_per_s",
  "few_p50_us",
  "few_p99_us",
  "half_load_cpu_us_per_request",
  "half_load_p50_us",
  "half_load_p99_us",
  "connect_cpu_us_per_connection",
  "connect_connections_per_s",
  ...(["connect_proxy", "connect_sni", "connect_log"] as const).flatMap(
    (prefix) => [`${prefix}_cpu_us_per_connection`, `${prefix}_connections_per_s`] as const,
  ),
  "idle_bytes_per_pair",
  "mixed_p50_us",
  "mixed_p99_us",
  "mixed_bulk_gbit_per_s",
  "sparse_cpu_us_per_request",
  "sparse_p50_us",
  "sparse_p99_us",
  "many_idle_pss_bytes_per_pair",
  "many_idle_rss_bytes_per_pair",
];

/** Those and, beside the rates, whether the balancer or what is around it was the limit. */
const FIGURES: readonly Figure[] = COMPARED.flatMap((figure) => {
  switch (figure) {
    case "keepalive_requests_per_s":
      return [figure, "keepalive_cores_used", "keepalive_beside_cores_used"];
    case "connect_connections_per_s":
      return [figure, "connect_cores_used", "connect_beside_cores_used"];
    case "connect_proxy_connections_per_s":
      return [figure, "connect_proxy_cores_used", "connect_proxy_beside_cores_used"];
    case "connect_sni_connections_per_s":
      return [figure, "connect_sni_cores_used", "connect_sni_beside_cores_used"];
    case "connect_log_connections_per_s":
      return [
        figure,
        "connect_log_cores_used",
        "connect_log_beside_cores_used",
        "connect_log_lines_per_connection",
      ];
    case "mixed_bulk_gbit_per_s":
      return [figure, "mixed_cores_used"];
    case "many_idle_rss_bytes_per_pair":
      // Not compared: of a balancer that does nothing there is no ratio.
      return [figure, "many_idle_cpu_ms_per_s", "many_idle_kernel_bytes_per_pair"];
    case "half_load_p99_us":
      return [figure, "half_load_cores_used"];
    default:
      return [figure];
  }
});

export interface Comparison {
  figure: Figure;
  peer: string;
  /** convey ÷ peer. */
  ratio: Spread;
  /** Median distance of the A/A control from 1. */
  noise: number;
  decision: Decision;
}

/** convey beside every other peer. */
export function compare(series: Series, names: readonly string[]): Comparison[] {
  return COMPARED.flatMap((figure) =>
    names.flatMap((peer) => {
      const ratio = peer === "convey" ? undefined : paired(series.rounds, "convey", peer, figure);
      if (ratio === undefined) return [];
      const distance = noise(control(series.rounds, names, figure));
      return [{ figure, peer, ratio, noise: distance, decision: decide(ratio, distance) }];
    }),
  );
}

export interface Verdict extends Target {
  peer: string;
  ratio: Spread;
  noise: number;
  outcome: "met" | "missed" | Exclude<Decision, "decided">;
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
    const decision = decide(ratio, distance, target.bound);
    const outcome = decision === "decided" ? (met ? "met" : "missed") : decision;
    return [{ ...target, peer: best.peer, ratio, noise: distance, outcome }];
  });
}

/** Everything as Markdown. */
export function markdown(all: readonly Series[], names: readonly string[], options: Options): string {
  const sections = all.map((series) => section(series, names, options));
  return [...(options.quick ? [QUICK] : []), ...sections].join("\n\n");
}

function section(series: Series, names: readonly string[], options: Options): string {
  const title =
    series.profile === "one"
      ? "one thread on core 1, everything else on core 0"
      : "two threads, two cores shared with generator and server";
  return [
    `## Proxy: ${title}; offloads ${series.offloads ? "on" : "off"}`,
    "",
    `Medians of ${series.rounds.length} rounds, runs of ${options.seconds} s. cores used: by the balancer; beside cores` +
      " used: by generator and server, which are the limit where they have all of their core.",
    "",
    row(["figure", ...names, "A/A"]),
    row(["---", ...names.map(() => "---:"), "---:"]),
    ...FIGURES.flatMap((figure) => {
      const cells = names.map((name) => absolute(series.rounds, name, figure));
      if (cells.every((cell) => cell === undefined)) return [];
      const aa = spread(control(series.rounds, names, figure));
      const values = names.map((name, i) => (cells[i] ? digits(cells[i].median) : absent(name, figure)));
      return [row([label(figure, series.half), ...values, aa ? range(aa) : "one visit a round"])];
    }),
    "",
    row(["convey ÷", "of", "median [range]", "A/A ±", "difference"]),
    row(["---", "---", "---:", "---:", "---"]),
    ...compare(series, names).map((c) =>
      row([c.peer, label(c.figure, series.half), range(c.ratio), distance(c.noise), c.decision]),
    ),
    "",
    row(["target: convey ÷ best peer", "peer", "median [range]", "target", "A/A ±", ""]),
    row(["---", "---", "---:", "---:", "---:", "---"]),
    ...judge(series, names).map((v) =>
      row([
        label(v.figure, series.half),
        v.peer,
        range(v.ratio),
        `${v.better === "less" ? "≤" : "≥"} ${v.bound.toFixed(2)}`,
        distance(v.noise),
        v.outcome,
      ]),
    ),
    "",
    ...notes(series, names),
  ].join("\n");
}

/** What a reader must know of this series to trust it. */
function notes(series: Series, names: readonly string[]): string[] {
  const visits = series.rounds.flat();
  const failures = names.flatMap((name) => {
    const count = visits.filter((v) => v.peer === name).reduce((n, v) => n + v.failures, 0);
    return count === 0 ? [] : [`${name} ${count}`];
  });
  const { half } = series;
  return [
    `- failed requests: ${failures.join(", ") || "none"}`,
    "reason" in half
      ? `- half load is missing: ${half.reason}`
      : `- half load is ${half.requestsPerS} requests/s for every peer, half of what ${half.best}, the best of them, did before` +
        ` the rounds (${Object.entries(half.measured)
          .map(([peer, rate]) => `${peer} ${rate.toFixed(0)}`)
          .join(", ")})`,
    "- direct has no balancer whose CPU or memory could be told",
    ...counted(visits.flatMap(({ peer, missing }) => missing.map((m) => `missing: ${peer}, ${m}`))),
  ];
}

/** Every line once, with how many visits it was true of. */
export function counted(lines: readonly string[]): string[] {
  return [...new Set(lines)].map((line) => `- ${line} (${lines.filter((l) => l === line).length} visits)`);
}

function absent(name: string, figure: Figure): string {
  const balancers =
    /_cpu_|cores_used$|^idle_|^many_idle_[pr]ss_|_lines_/.test(figure) && !figure.includes("_beside_");
  return name === "direct" && balancers ? "n/a" : "missing";
}

/** The figure in words; of half load with the rate it was taken at. */
function label(figure: Figure, half: HalfLoad): string {
  if (!figure.startsWith("half_load_") || "reason" in half) return words(figure);
  const at = `at ${half.requestsPerS} requests/s, half of the best peer's rate`;
  return `${words(figure.replace("half_load_", ""))} ${at}`;
}

function distance(noise: number): string {
  return Number.isFinite(noise) ? noise.toFixed(3) : "unknown";
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

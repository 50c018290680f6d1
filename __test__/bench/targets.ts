/** What convey is measured against. */
import type { Figure } from "./figures.ts";

export interface Target {
  figure: Figure;
  /** The best of these counts. */
  against: readonly string[];
  /** convey ÷ peer may be at most (or, for rates, must be at least) this. */
  bound: number;
  better: "less" | "more";
}

const BOTH = ["haproxy", "nginx"] as const;

export const TARGETS: readonly Target[] = [
  { figure: "bulk_cpu_s_per_gb", against: ["haproxy"], bound: 0.45, better: "less" },
  { figure: "bulk_cpu_s_per_gb", against: ["haproxy-splice"], bound: 1.0, better: "less" },
  { figure: "bulk_cpu_s_per_gb", against: ["nginx-256k"], bound: 0.85, better: "less" },
  { figure: "keepalive_cpu_us_per_request", against: BOTH, bound: 0.95, better: "less" },
  { figure: "keepalive_requests_per_s", against: BOTH, bound: 1.05, better: "more" },
  { figure: "keepalive_p99_us", against: BOTH, bound: 1.0, better: "less" },
  { figure: "few_p99_us", against: BOTH, bound: 1.0, better: "less" },
  { figure: "connect_cpu_us_per_connection", against: BOTH, bound: 0.95, better: "less" },
  { figure: "connect_connections_per_s", against: BOTH, bound: 1.0, better: "more" },
  { figure: "half_load_p99_us", against: BOTH, bound: 1.0, better: "less" },
  { figure: "idle_bytes_per_pair", against: BOTH, bound: 1.0, better: "less" },
];

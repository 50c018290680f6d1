/** What a visit of the proxy bench brings back. */

/** New connections with something more to each of them. */
export type ConnectWork = "connect-proxy" | "connect-sni" | "connect-log";

/** The beginning of a work's figures. */
export type Prefix = "connect" | "connect_proxy" | "connect_sni" | "connect_log";

/** Names of figures; the unit is part of the name. */
export type Figure =
  | "bulk_cpu_s_per_gb"
  | "bulk_gbit_per_s"
  | "keepalive_cpu_us_per_request"
  | "keepalive_requests_per_s"
  | "keepalive_p50_us"
  | "keepalive_p99_us"
  | "keepalive_cores_used"
  | "keepalive_beside_cores_used"
  | "few_cpu_us_per_request"
  | "few_requests_per_s"
  | "few_p50_us"
  | "few_p99_us"
  | "half_load_p50_us"
  | "half_load_p99_us"
  | "half_load_cpu_us_per_request"
  | "half_load_cores_used"
  | `${Prefix}_${"cpu_us_per_connection" | "connections_per_s" | "cores_used" | "beside_cores_used"}`
  | "connect_log_lines_per_connection"
  | "mixed_p50_us"
  | "mixed_p99_us"
  | "mixed_bulk_gbit_per_s"
  | "mixed_cores_used"
  | "sparse_p50_us"
  | "sparse_p99_us"
  | "sparse_cpu_us_per_request"
  | "idle_bytes_per_pair"
  | "many_idle_pss_bytes_per_pair"
  | "many_idle_rss_bytes_per_pair"
  | "many_idle_kernel_bytes_per_pair"
  | "many_idle_cpu_ms_per_s";

export interface Visit {
  peer: string;
  figures: Partial<Record<Figure, number>>;
  /** Works without figures, and why. */
  missing: string[];
  /** Failed requests and connections over all runs. */
  failures: number;
}

/** Metrics of the balancer as a whole. */
import type { Config } from "../config/schema.ts";
import type { Readiness } from "../control/readiness.ts";
import type { Stats } from "../control/stats.ts";
import { by, counter, type Family, gauge, one } from "./family.ts";
import type { Observed } from "./observed.ts";
import { bytes, limit } from "./traffic.ts";

export function generalFamilies(
  stats: Stats,
  readiness: Readiness,
  config: Config,
  observed: Observed,
): Family[] {
  const { last_reload: reload } = stats;
  return [
    gauge("convey_build_info", "Always 1; which version runs, and in which mode.", [
      { value: 1, labels: { version: stats.version, mode: stats.mode } },
    ]),
    gauge("convey_uptime_seconds", "Seconds since this balancer was started.", one(stats.uptime_seconds)),
    gauge("convey_ready", "Whether /readyz answers 200: traffic can be taken.", one(Number(readiness.ready))),
    gauge(
      "convey_draining",
      "Whether no new connections are taken because it is closing.",
      one(Number(stats.draining)),
    ),
    gauge(
      "convey_config_version",
      "Configurations put in service, counted from 1.",
      one(stats.config_version),
    ),
    counter(
      "convey_config_reloads_total",
      "Configurations offered since the start, by what became of them.",
      by("result", observed.reloads),
    ),
    gauge(
      "convey_config_last_reload_successful",
      "0 when the latest reload was rejected or rolled back and an older configuration serves, else 1.",
      one(Number(reload?.result !== "rejected" && reload?.result !== "rolled_back")),
    ),
    gauge(
      "convey_config_last_reload_timestamp_seconds",
      "When the latest reload ended, in seconds since 1970; absent before the first.",
      one(reload === null ? undefined : Date.parse(reload.at) / 1000),
    ),
    counter(
      "convey_lost_log_lines_total",
      "Lines of log.connections that could not be written in time.",
      one(stats.lost_log_lines),
    ),
    counter(
      "convey_connections_total",
      "Connections over all frontends, removed ones included.",
      one(stats.total_connections),
    ),
    gauge("convey_current_connections", "Connections open now.", one(stats.current_connections)),
    limit("convey_limit_connections", "Connections open at once over all frontends, where limited.", [
      [config.limits.max_connections, undefined],
    ]),
    counter(
      "convey_bytes_total",
      "Bytes over all frontends: tx from clients to servers, rx from servers to clients.",
      bytes(stats, { bytes_tx: stats.total_bytes_tx, bytes_rx: stats.total_bytes_rx }),
    ),
    counter(
      "convey_connection_errors_total",
      "Connections refused or ended early, and failed attempts to connect, by reason.",
      by("reason", stats.reasons),
    ),
    counter(
      "convey_worker_panics_total",
      "Times a worker of the data plane panicked.",
      one(Math.max(observed.warnings["worker-panicked"], stats.worker_panics ?? 0)),
    ),
    counter(
      "convey_warnings_total",
      "Times the data plane or its surroundings deserved a look, by kind; the log tells each.",
      by("kind", observed.warnings),
    ),
  ];
}

/** Metrics of each frontend. */
import type { Config } from "../config/schema.ts";
import type { Readiness } from "../control/readiness.ts";
import type { Stats } from "../control/stats.ts";
import { by, counter, type Family, gauge } from "./family.ts";
import { limit, trafficFamilies } from "./traffic.ts";

export function frontendFamilies(stats: Stats, readiness: Readiness, config: Config): Family[] {
  const frontends = Object.entries(stats.frontends).map(([frontend, its]) => ({ of: { frontend }, its }));
  return [
    gauge(
      "convey_frontend_info",
      "Always 1; where the frontend listens and the backend that serves it.",
      frontends.map(({ of, its }) => ({
        value: 1,
        of,
        labels: { backend: its.backend, address: its.address },
      })),
    ),
    gauge(
      "convey_frontend_ready",
      "Whether the frontend has a server that would be given a connection.",
      Object.entries(readiness.frontends).map(([frontend, ready]) => ({
        value: Number(ready),
        labels: { frontend },
      })),
    ),
    ...trafficFamilies(
      "frontend",
      stats,
      frontends.map(({ of, its }) => [of, its] as const),
    ),
    limit(
      "convey_frontend_limit_connections",
      "Connections open at once on the frontend, where limited.",
      Object.entries(config.frontends).map(([frontend, { max_connections }]) => [
        max_connections,
        { frontend },
      ]),
    ),
    counter(
      "convey_frontend_connection_errors_total",
      "Connections of the frontend refused or ended early, by reason.",
      frontends.flatMap(({ of, its }) => by("reason", its.reasons, of)),
    ),
  ];
}

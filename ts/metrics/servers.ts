/** Metrics of each backend and of its servers. */
import { serverKey } from "../config/lower.ts";
import type { Config } from "../config/schema.ts";
import type { ServerStats, Stats } from "../control/stats.ts";
import { by, counter, type Family, gauge, type Sample } from "./family.ts";
import type { Observed } from "./observed.ts";
import { limit, trafficFamilies } from "./traffic.ts";

const STATES = ["up", "draining", "down"] as const;
type State = (typeof STATES)[number];

/** One that is down takes nothing, draining or not. */
const stateOf = ({ up, draining }: ServerStats): State => (up ? (draining ? "draining" : "up") : "down");

type Server = { of: { backend: string; server: string }; its: ServerStats; state: State; key: string };

export function backendFamilies(stats: Stats, config: Config): Family[] {
  const backends = Object.entries(stats.backends).map(([backend, its]) => ({ of: { backend }, its }));
  return [
    gauge(
      "convey_backend_servers",
      "Servers of the backend by state.",
      backends.flatMap(({ of, its }) => {
        const counts: Record<State, number> = { up: 0, draining: 0, down: 0 };
        for (const server of Object.values(its.server_details)) counts[stateOf(server)] += 1;
        return by("state", counts, of);
      }),
    ),
    ...trafficFamilies(
      "backend",
      stats,
      backends.map(({ of, its }) => [of, its] as const),
    ),
    limit(
      "convey_backend_limit_connections",
      "Connections open at once over all servers of the backend, where limited.",
      Object.entries(config.backends).map(([backend, { max_connections }]) => [max_connections, { backend }]),
    ),
    limit(
      "convey_backend_limit_queue",
      "Connections that may wait for a place at the backend, where any may.",
      Object.entries(config.backends).map(([backend, { queue }]) => [queue, { backend }]),
    ),
    gauge(
      "convey_backend_queue_connections",
      "Connections that wait for a place at the backend now.",
      backends.flatMap(({ of, its }) => (its.queue === undefined ? [] : [{ value: its.queue.waiting, of }])),
    ),
    counter(
      "convey_backend_queued_connections_total",
      "Connections that waited for a place at the backend.",
      backends.flatMap(({ of, its }) => (its.queue === undefined ? [] : [{ value: its.queue.total, of }])),
    ),
    counter(
      "convey_backend_queue_failures_total",
      "Connections closed instead of getting a place, by whether their time was over or the queue was full.",
      backends.flatMap(({ of, its: { queue } }) =>
        queue === undefined
          ? []
          : by("reason", { queue_timeout: queue.timed_out, queue_full: queue.refused }, of),
      ),
    ),
  ];
}

export function serverFamilies(stats: Stats, config: Config, observed: Observed): Family[] {
  const servers: Server[] = Object.entries(stats.backends).flatMap(([backend, { server_details }]) =>
    Object.entries(server_details).map(([server, its]) => ({
      of: { backend, server },
      its,
      state: stateOf(its),
      key: serverKey(backend, server),
    })),
  );
  const each = (value: (server: Server) => number | undefined): Sample[] =>
    servers.flatMap((server) => {
      const found = value(server);
      return found === undefined ? [] : [{ value: found, of: server.of }];
    });
  return [
    gauge(
      "convey_server_info",
      "Always 1; the address of the server.",
      servers.map(({ of, its }) => ({ value: 1, of, labels: { address: its.addr } })),
    ),
    gauge(
      "convey_backend_server_up",
      "Whether health checks hold the server for up and it is not ejected.",
      each(({ its }) => Number(its.up)),
    ),
    gauge(
      "convey_server_ejected",
      "Whether the server is kept out for a while because clients' connections to it failed.",
      each(({ its }) => Number(its.ejected_until !== undefined)),
    ),
    gauge(
      "convey_server_status",
      "1 for the state that the server is in, 0 for the others.",
      servers.flatMap(({ of, state }) =>
        STATES.map((it) => ({ value: Number(state === it), of, labels: { state: it } })),
      ),
    ),
    gauge(
      "convey_server_draining",
      "Whether the server was told to take no new connections.",
      each(({ its }) => Number(its.draining)),
    ),
    gauge(
      "convey_server_weight",
      "The weight in force; 0 takes the server out of rotation.",
      each(({ its }) => its.weight),
    ),
    gauge(
      "convey_server_effective_weight",
      "The weight that selection goes by: 0 while the server is down or draining or a backup that waits, a part in slow start.",
      each(({ its }) => its.effective_weight),
    ),
    ...trafficFamilies(
      "server",
      stats,
      servers.map(({ of, its }) => [of, its] as const),
    ),
    limit(
      "convey_server_limit_connections",
      "Connections open at once to the server, where limited.",
      servers.map(({ of }) => [config.backends[of.backend]?.servers[of.server]?.max_connections ?? 0, of]),
    ),
    counter(
      "convey_server_connection_errors_total",
      "Connections to the server that failed or ended early, by reason.",
      servers.flatMap(({ of, its }) => by("reason", its.reasons, of)),
    ),
    gauge(
      "convey_server_check_duration_seconds",
      "How long the latest health check of the server took.",
      each(({ its }) => (its.last_check === null ? undefined : its.last_check.duration_ms / 1000)),
    ),
    gauge(
      "convey_server_check_timestamp_seconds",
      "When the latest health check of the server ended, in seconds since 1970.",
      each(({ its }) => (its.last_check === null ? undefined : Date.parse(its.last_check.at) / 1000)),
    ),
    counter(
      "convey_server_checks_total",
      "Finished health checks of the server by result; failed connections of clients are not among them.",
      servers.flatMap(({ of, key }) => by("result", observed.checks(key), of)),
    ),
    counter(
      "convey_server_state_changes_total",
      "Times health checks or ejections brought the server up or took it down.",
      servers.flatMap(({ of, key }) => by("state", observed.transitions(key), of)),
    ),
  ];
}

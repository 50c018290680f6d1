/** What a reload cannot change: settings that are fixed while the data plane lives. */
import type { Problem } from "../config/problem.ts";
import type { Config } from "../config/schema.ts";

/** By then the process may have given up what it takes to change it. */
const SOCKET_GROUP: [string, (config: Config) => unknown] = [
  "stats.socket_group",
  (c) => c.stats?.socket_group ?? "none",
];

/** One warning for each setting in which `next` is not what the data plane runs with: `running`, as it was started. */
export function needsRestart(running: Config, next: Config): Problem[] {
  const fixed: [string, (config: Config) => unknown][] =
    running.mode === "proxy"
      ? [SOCKET_GROUP, ["proxy.workers", (c) => c.proxy.workers]]
      : [
          SOCKET_GROUP,
          ["engine", (c) => c.engine],
          ["passthrough.workers", (c) => c.passthrough.workers],
          ["passthrough.connection_tracker_capacity", (c) => c.passthrough.connection_tracker_capacity],
          ["passthrough.port_range", (c) => c.passthrough.port_range],
          ["xdp.mode", (c) => c.xdp.mode],
          ["dsr.connection_tracking", (c) => c.dsr.connection_tracking],
          ["passthrough.nat_addresses", (c) => c.passthrough.nat_addresses.join(", ")],
        ];
  return fixed
    .filter(([, read]) => read(running) !== read(next))
    .map(([path, read]) => ({
      severity: "warning",
      path,
      message: "takes effect at the next start; the rest of the configuration is in service",
      found: String(read(next)),
      expected: `${String(read(running))} until then`,
    }));
}

/** Why a reload would refuse `next` for its mode; undefined when it would not. */
export function otherMode(running: Config, next: Config): string | undefined {
  if (next.mode === running.mode) return undefined;
  return `mode: cannot change from ${running.mode} to ${next.mode} while running; restart to change the mode`;
}

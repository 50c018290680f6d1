/** Keys about sessions of UDP, which proxy mode alone has. */
import { describeValue, type Finding, quote } from "./problem.ts";
import { error, type View } from "./view.ts";

const KEYS = ["udp_idle_timeout_ms", "udp_responses", "udp_requests", "max_sessions"] as const;

const OF_TCP = ["tcp_user_timeout_ms", "tcp_fast_open", "mptcp", "accept_proxy"] as const;

/** Of backends. */
const OF_CONNECTIONS = ["source", "send_proxy", "eject_after"] as const;

/** Where a key of one protocol is written for the other, or for a mode that has no sessions. */
export function udpRules({ frontends, backends, mode }: View): Finding[] {
  return frontends.flatMap(({ name, protocol, table, backend }) => [
    ...(protocol === "udp" ? OF_TCP : []).flatMap((key) => {
      if (!table[key]) return [];
      const details = { found: describeValue(table[key]), expected: 'no such key, or protocol = "tcp"' };
      return [error(["frontends", name, key], "key", "is about TCP, and this frontend is of UDP", details)];
    }),
    ...(protocol === "udp" && mode === "proxy" ? OF_CONNECTIONS : []).flatMap((key) => {
      const pool = backend === undefined ? undefined : backends.get(backend);
      const value = pool?.table[key];
      if (pool === undefined || value === undefined || value === "off" || value === 0) return [];
      const why = `is about connections of TCP, and frontend ${quote(name)} of this backend is of UDP`;
      const details = {
        found: describeValue(value),
        expected: "no such key, or a backend of its own for UDP",
      };
      return [error(["backends", pool.name, key], "key", why, details)];
    }),
    ...KEYS.flatMap((key) => {
      if (table[key] === undefined) return [];
      const at = ["frontends", name, key];
      const found = describeValue(table[key]);
      if (protocol === "tcp") {
        const expected = 'no such key, or protocol = "udp"';
        return [
          error(at, "key", "is about sessions of UDP, and this frontend is of TCP", { found, expected }),
        ];
      }
      if (mode === undefined || mode === "proxy") return [];
      const expected =
        key === "udp_idle_timeout_ms" ? "passthrough.timeouts.udp_ms and udp_stream_ms" : "no such key";
      return [error(at, "key", `is not available in ${mode} mode`, { found, expected })];
    }),
  ]);
}

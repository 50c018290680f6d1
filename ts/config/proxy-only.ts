/** Keys that only proxy mode can honour, where another mode is set: errors, since what they promise would not be kept. */
import { describeValue, type Finding, type KeyPath } from "./problem.ts";
import { error, isTable, type View } from "./view.ts";

const WHY = {
  frontends: {
    tcp_user_timeout_ms: "TCP is the endpoints' own",
    tcp_fast_open: "connections are the servers', which may take it",
    mptcp: "connections are the servers'",
  },
  backends: {
    max_connections: "only servers and frontends have limits",
    queue: "a packet cannot wait for a place",
    retry_timeout_ms: "clients' own retries find the server that is up by then",
    half_close_timeout_ms: "passthrough.timeouts says how long flows live",
    tcp_user_timeout_ms: "TCP is the endpoints' own",
  },
} as const;

/** What is off is refused by no mode. */
const isOff = (value: unknown): boolean => value === undefined || value === 0 || value === false;

export function proxyOnly({ mode, frontends, backends }: View): Finding[] {
  const tables: [KeyPath, unknown, Readonly<Record<string, string>>][] = [
    ...frontends.map(({ name, table }): [KeyPath, unknown, Readonly<Record<string, string>>] => [
      ["frontends", name],
      table,
      WHY.frontends,
    ]),
    ...[...backends.values()].map(({ name, table }): [KeyPath, unknown, Readonly<Record<string, string>>] => [
      ["backends", name],
      table,
      WHY.backends,
    ]),
  ];
  return tables.flatMap(([at, table, keys]) =>
    Object.entries(keys).flatMap(([key, why]) => {
      const value = isTable(table) ? table[key] : undefined;
      if (isOff(value)) return [];
      return [
        error([...at, key], "value", `is not available in ${mode} mode: ${why}`, {
          found: describeValue(value),
          expected: typeof value === "boolean" ? "false" : 'nothing, or mode = "proxy"',
        }),
      ];
    }),
  );
}

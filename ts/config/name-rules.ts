/** Rules of servers that are no IP address: names, which stand for addresses, and Unix sockets. */
import { describeValue, type Finding, quote } from "./problem.ts";
import { isResolved, parseServerAddress, type ServerAddress } from "./server-address.ts";
import { type Backend, error, isTable, type View, warning } from "./view.ts";

/** What stands between the name of a server and the address that it was resolved to. */
export const ADDRESS_MARK = "@";

/** All findings about servers that are no IP address, and about how names are resolved. */
export function nameRules(view: View): Finding[] {
  return [...[...view.backends.values()].flatMap((backend) => ofBackend(view, backend)), ...ttls(view)];
}

function ofBackend(view: View, backend: Backend): Finding[] {
  const resolved = new Set<string>();
  const findings = backend.servers.flatMap(({ name, table }): Finding[] => {
    const parsed = typeof table.addr === "string" ? parseServerAddress(table.addr) : undefined;
    if (parsed?.ok !== true) return [];
    const address = parsed.value;
    if (isResolved(address)) resolved.add(name);
    const at = ["backends", backend.name, "servers", name];
    const found = describeValue(table.addr);
    const none: Finding[] =
      table.resolve === undefined || isResolved(address)
        ? []
        : [warning([...at, "resolve"], "key", "has no effect: the address is no name", { found })];
    return [
      ...none,
      ...unixRules(view, backend, address, [...at, "addr"], found),
      ...portRules(view, backend, address, [...at, "addr"], found),
    ];
  });
  for (const { name } of backend.servers) {
    const of = name.slice(0, name.lastIndexOf(ADDRESS_MARK));
    if (!name.includes(ADDRESS_MARK) || !resolved.has(of)) continue;
    const why = `is a name that an address of server ${quote(of)} may get`;
    const expected = `a name that does not begin with ${quote(of + ADDRESS_MARK)}`;
    findings.push(error(["backends", backend.name, "servers", name], "key", why, { expected }));
  }
  return findings;
}

function unixRules(
  { mode, frontends }: View,
  backend: Backend,
  address: ServerAddress,
  at: string[],
  found: string,
): Finding[] {
  if (address.kind !== "unix" || mode === undefined) return [];
  if (mode === "proxy") {
    const udp = frontends.find((it) => it.backend === backend.name && it.protocol === "udp");
    if (udp === undefined) return [];
    const of = `is a Unix socket, which takes connections, and frontend ${quote(udp.name)} of this backend is of UDP`;
    return [error(at, "value", of, { found, expected: '"ip:port", or a backend of its own for UDP' })];
  }
  const why = `is a Unix socket, which no packet can be sent to: ${mode} mode forwards packets`;
  return [error(at, "value", why, { found, expected: '"ip:port", or mode = "proxy"' })];
}

/** As for addresses: dsr mode leaves ports as they are. */
function portRules(
  { mode, frontends }: View,
  backend: Backend,
  address: ServerAddress,
  at: string[],
  found: string,
): Finding[] {
  if (mode !== "dsr" || address.kind !== "name") return [];
  const others = frontends.flatMap(({ name, backend: its, listen: all }) => {
    const listen = all.filter(({ from }) => from !== 0);
    const has = listen.some(({ from, to }) => from <= address.port && address.port <= to);
    return its !== backend.name || listen.length === 0 || has ? [] : [{ name, listen }];
  });
  const [other] = others;
  if (other === undefined) return [];
  const ports = other.listen.map(({ from, to }) => (from === to ? String(from) : `${from}-${to}`));
  const why = `has another port than frontend ${quote(other.name)}, and dsr mode leaves ports as they are`;
  return [error(at, "value", why, { found, expected: `port ${[...new Set(ports)].join(" or ")}` })];
}

function ttls({ root: { resolver } }: View): Finding[] {
  if (!isTable(resolver)) return [];
  const { min_ttl_ms: least = 1000, max_ttl_ms: most = 60_000 } = resolver;
  if (typeof least !== "number" || typeof most !== "number" || least <= most) return [];
  const key = resolver.max_ttl_ms === undefined ? "min_ttl_ms" : "max_ttl_ms";
  return [
    error(["resolver", key], "value", "min_ttl_ms is above max_ttl_ms", {
      found: describeValue(resolver[key]),
      expected: key === "max_ttl_ms" ? `a value not below ${least}` : `a value not above ${most}`,
    }),
  ];
}

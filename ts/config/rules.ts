/**
 * What the schema cannot say: rules between keys. They read the input as it was written, so that they speak
 * even when the schema has refused something elsewhere, and pass over what it refused itself.
 */
import { isLoopback, isWildcard, parseSocketAddress, type SocketAddress } from "./address.ts";
import { nearest } from "./nearest.ts";
import { describeValue, type Finding, type KeyPath, oneOf, quote } from "./problem.ts";

type Table = Readonly<Record<string, unknown>>;

interface Frontend {
  name: string;
  table: Table;
  listen: SocketAddress | undefined;
  protocol: unknown;
  backend: string | undefined;
}

interface Server {
  name: string;
  table: Table;
  addr: SocketAddress | undefined;
}

interface Backend {
  name: string;
  table: Table;
  servers: Server[];
}

interface View {
  root: Table;
  /** Undefined when it is not one of the modes. */
  mode: "proxy" | "packet" | "dsr" | undefined;
  frontends: Frontend[];
  backends: Map<string, Backend>;
}

/** All findings about relations between keys, errors and warnings. */
export function checkRules(input: unknown): Finding[] {
  if (!isTable(input)) return [];
  const view = viewOf(input);
  return [
    ...names(view),
    ...presence(view),
    ...references(view),
    ...listeners(view),
    ...pools(view),
    ...loops(view),
    ...modeRules(view),
    ...exposure(view),
    ...deprecated(view),
  ];
}

function viewOf(root: Table): View {
  const mode = root.mode ?? "proxy";
  return {
    root,
    mode: mode === "proxy" ? "proxy" : mode === "passthrough" ? "packet" : mode === "dsr" ? "dsr" : undefined,
    frontends: entries(root.frontends).map(([name, table]) => ({
      name,
      table,
      listen: address(table.listen_addr, true),
      protocol: table.protocol ?? "tcp",
      backend: typeof table.backend === "string" ? table.backend : undefined,
    })),
    backends: new Map(
      entries(root.backends).map(([name, table]) => [
        name,
        {
          name,
          table,
          servers: entries(table.servers).map(([server, own]) => ({
            name: server,
            table: own,
            addr: address(own.addr, false),
          })),
        },
      ]),
    ),
  };
}

function names({ root, backends }: View): Finding[] {
  // zod's record passes over this one name, since assigning it would change the object's prototype.
  const reserved = "__proto__";
  const places: [KeyPath, unknown][] = [
    [["frontends"], root.frontends],
    [["backends"], root.backends],
    ...[...backends.values()].map((b): [KeyPath, unknown] => [
      ["backends", b.name, "servers"],
      b.table.servers,
    ]),
  ];
  return places
    .filter(([, table]) => isTable(table) && Object.hasOwn(table, reserved))
    .map(([at]) => error([...at, reserved], "key", "this name is reserved"));
}

function presence({ root }: View): Finding[] {
  if (!isTable(root.frontends) || Object.keys(root.frontends).length > 0) return [];
  return [error(["frontends"], "key", "has no frontend", { expected: "at least one [frontends.<name>]" })];
}

function references({ root, frontends, backends }: View): Finding[] {
  if (!isTable(root.backends)) return [];
  const known = [...backends.keys()];
  const findings: Finding[] = [];
  const used = new Set<string>();
  for (const { name, backend } of frontends) {
    if (backend === undefined) continue;
    used.add(backend);
    if (Object.hasOwn(root.backends, backend)) continue;
    const suggestion = nearest(backend, known);
    findings.push(
      error(["frontends", name, "backend"], "value", "names no backend", {
        found: describeValue(backend),
        expected: known.length > 0 ? oneOf(known) : "a backend, and there is none",
        ...(suggestion === undefined ? {} : { suggestion }),
      }),
    );
  }
  // A misspelt reference leaves its backend unused; one of the two is enough to tell.
  for (const name of findings.length > 0 ? [] : known) {
    if (used.has(name)) continue;
    findings.push(warning(["backends", name], "key", "is not used by any frontend"));
  }
  return findings;
}

function listeners({ root, frontends, mode }: View): Finding[] {
  const findings: Finding[] = [];
  const taken: { address: SocketAddress; protocol: unknown; owner: string }[] = [];
  for (const { name, listen, protocol, table } of frontends) {
    if (!listen || listen.port === 0) continue;
    const at = ["frontends", name, "listen_addr"];
    const other = taken.find((t) => t.protocol === protocol && overlaps(t.address, listen));
    if (other && sameAddress(other.address, listen)) {
      findings.push(
        error(at, "value", `is the address of frontend ${quote(other.owner)} too`, {
          found: describeValue(table.listen_addr),
          expected: "an address and port of its own",
        }),
      );
    } else if (other) {
      // Two listening sockets cannot hold a wildcard and one of its addresses; the packet modes can, and
      // take the more specific frontend first.
      const message = `overlaps with frontend ${quote(other.owner)}: one of them is the wildcard address on the same port`;
      const finding = mode === "proxy" ? error : warning;
      findings.push(
        finding(at, "value", message, {
          found: describeValue(table.listen_addr),
          expected: "an address and port of its own",
        }),
      );
    }
    taken.push({ address: listen, protocol, owner: name });
  }
  return [...findings, ...statsListener(root, taken)];
}

function statsListener(
  root: Table,
  taken: readonly { address: SocketAddress; protocol: unknown; owner: string }[],
): Finding[] {
  if (!isTable(root.stats)) return [];
  const { port, bind = "127.0.0.1" } = root.stats;
  if (typeof bind !== "string" || (typeof port !== "string" && typeof port !== "number")) return [];
  const own = address(bind.includes(":") ? `[${bind}]:${port}` : `${bind}:${port}`, true);
  if (!own || own.port === 0) return [];
  const other = taken.find((t) => t.protocol === "tcp" && overlaps(t.address, own));
  if (!other) return [];
  return [
    error(["stats", "port"], "value", `is taken by frontend ${quote(other.owner)}`, {
      found: describeValue(port),
      expected: "a port of its own",
    }),
  ];
}

function pools({ backends }: View): Finding[] {
  const findings: Finding[] = [];
  for (const { name, table, servers } of backends.values()) {
    const at = ["backends", name];
    if (table.servers === undefined || (isTable(table.servers) && Object.keys(table.servers).length === 0)) {
      findings.push(warning(at, "key", "has no servers: its frontends refuse every connection"));
    } else if (servers.length > 0 && servers.every((server) => server.table.weight === 0)) {
      findings.push(
        warning(
          [...at, "servers"],
          "key",
          "every server has weight 0: its frontends refuse every connection",
        ),
      );
    }
    const seen = new Map<string, string>();
    for (const server of servers) {
      if (!server.addr) continue;
      const key = `${server.addr.host} ${server.addr.port}`;
      const other = seen.get(key);
      if (other === undefined) {
        seen.set(key, server.name);
        continue;
      }
      findings.push(
        warning(
          [...at, "servers", server.name, "addr"],
          "value",
          `is the address of server ${quote(other)} too`,
          {
            found: describeValue(server.table.addr),
          },
        ),
      );
    }
  }
  return findings;
}

/** A frontend that would connect to itself. */
function loops({ frontends, backends, mode }: View): Finding[] {
  if (mode !== "proxy") return [];
  return frontends.flatMap(({ name, listen, backend }) => {
    if (!listen || listen.port === 0 || backend === undefined) return [];
    const servers = backends.get(backend)?.servers ?? [];
    return servers
      .filter(({ addr }) => addr !== undefined && sameAddress(addr, listen))
      .map((server) =>
        error(
          ["backends", backend, "servers", server.name, "addr"],
          "value",
          `is where frontend ${quote(name)} itself listens: connections would go in a circle`,
          { found: describeValue(server.table.addr) },
        ),
      );
  });
}

function modeRules(view: View): Finding[] {
  if (view.mode === undefined) return [];
  return view.mode === "proxy" ? proxyRules(view) : packetRules(view);
}

function proxyRules({ frontends }: View): Finding[] {
  return frontends
    .filter(({ protocol }) => protocol === "udp")
    .map(({ name }) =>
      error(["frontends", name, "protocol"], "value", "UDP is not available in proxy mode", {
        found: '"udp"',
        expected: '"tcp", or mode = "passthrough" or "dsr"',
      }),
    );
}

function packetRules({ root, frontends, backends, mode }: View): Finding[] {
  const modeName = mode === "dsr" ? "dsr" : "passthrough";
  const findings: Finding[] = [];
  for (const { name, listen, table, backend } of frontends) {
    if (!listen) continue;
    const at = ["frontends", name, "listen_addr"];
    if (listen.port === 0) {
      findings.push(
        error(at, "value", `has port 0, which only proxy mode can let the kernel choose`, {
          found: describeValue(table.listen_addr),
          expected: "a port from 1 to 65535",
        }),
      );
      continue;
    }
    for (const server of (backend === undefined ? undefined : backends.get(backend))?.servers ?? []) {
      if (!server.addr || backend === undefined) continue;
      const place = ["backends", backend, "servers", server.name, "addr"];
      const found = describeValue(server.table.addr);
      if (server.addr.family !== listen.family) {
        findings.push(
          error(place, "value", `is not of the address family of frontend ${quote(name)}`, {
            found,
            expected: `an IPv${listen.family} address in ${modeName} mode`,
          }),
        );
      } else if (mode === "dsr" && server.addr.port !== listen.port) {
        findings.push(
          error(
            place,
            "value",
            `has another port than frontend ${quote(name)}, and dsr mode leaves ports as they are`,
            {
              found,
              expected: `port ${listen.port}`,
            },
          ),
        );
      }
    }
  }
  return [...findings, ...withoutEffect(root, frontends, backends, modeName)];
}

const PROXY_BACKEND_KEYS = ["connect_timeout_ms", "retries", "idle_timeout_ms", "max_duration_ms"] as const;

function withoutEffect(
  root: Table,
  frontends: readonly Frontend[],
  backends: ReadonlyMap<string, Backend>,
  mode: string,
): Finding[] {
  const written: KeyPath[] = [];
  const note = (at: KeyPath, table: unknown, keys: readonly string[]): void => {
    if (isTable(table)) for (const key of keys) if (table[key] !== undefined) written.push([...at, key]);
  };
  note(["proxy"], root.proxy, ["workers"]);
  // In dsr mode a connection may be two forged packets, and its end is not seen: a limit would shut clients out.
  const limits = mode === "dsr" ? ["max_connections"] : [];
  note(["limits"], root.limits, [...limits, "max_connections_per_client"]);
  for (const { name, table } of frontends) note(["frontends", name], table, limits);
  for (const { name, table, servers } of backends.values()) {
    note(["backends", name], table, PROXY_BACKEND_KEYS);
    for (const s of servers) note(["backends", name, "servers", s.name], s.table, limits);
  }
  return written.map((at) => warning(at, "key", `has no effect in ${mode} mode`));
}

function exposure({ root }: View): Finding[] {
  if (!isTable(root.stats)) return [];
  const { bind, token_file } = root.stats;
  if (
    typeof bind !== "string" ||
    address(bind.includes(":") ? `[${bind}]:1` : `${bind}:1`, true) === undefined
  )
    return [];
  if (isLoopback(bind) || token_file !== undefined) return [];
  return [
    warning(["stats", "bind"], "value", "other machines can read the statistics", {
      found: describeValue(bind),
      expected: "a loopback address, or stats.token_file",
    }),
  ];
}

function deprecated({ frontends }: View): Finding[] {
  return frontends
    .filter(({ table }) => table.xdp !== undefined)
    .map(({ name }) =>
      warning(
        ["frontends", name, "xdp"],
        "key",
        "is deprecated and has no effect: the built-in program is used",
      ),
    );
}

/** Whether two listeners cannot both have their address: equal, or one the wildcard of the other's family. */
function overlaps(a: SocketAddress, b: SocketAddress): boolean {
  if (a.port !== b.port || a.family !== b.family) return false;
  return a.host === b.host || isWildcard(a) || isWildcard(b);
}

function sameAddress(a: SocketAddress, b: SocketAddress): boolean {
  return a.port === b.port && a.family === b.family && a.host === b.host;
}

type Details = Pick<Finding, "found" | "expected" | "suggestion">;

function error(at: KeyPath, point: Finding["point"], message: string, details: Details = {}): Finding {
  return { severity: "error", at, point, message, ...details };
}

function warning(at: KeyPath, point: Finding["point"], message: string, details: Details = {}): Finding {
  return { severity: "warning", at, point, message, ...details };
}

function address(value: unknown, wildcard: boolean): SocketAddress | undefined {
  if (typeof value !== "string") return undefined;
  const parsed = parseSocketAddress(value, { wildcard });
  return parsed.ok ? parsed.value : undefined;
}

function entries(value: unknown): [string, Table][] {
  if (!isTable(value)) return [];
  return Object.entries(value).filter((entry): entry is [string, Table] => isTable(entry[1]));
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * What the schema cannot say: rules between keys. They read the input as it was written, so that they speak
 * even when the schema has refused something elsewhere, and pass over what it refused itself.
 */

import {
  hostPort,
  isLinkLocal,
  isLoopback,
  isWildcard,
  parsePortRange,
  type SocketAddress,
} from "./address.ts";
import { availableCpus } from "./cpus.ts";
import { healthCheckTableRules } from "./health-check-table.ts";
import { healthCheckRules } from "./health-checks.ts";
import { ELSEWHERE, groupRules, type HostFacts, tokenRules } from "./host.ts";
import { loops } from "./loops.ts";
import { nameRules } from "./name-rules.ts";
import { nearest } from "./nearest.ts";
import { describeValue, type Finding, type KeyPath, oneOf, quote } from "./problem.ts";
import { proxyOnly } from "./proxy-only.ts";
import {
  type Backend,
  error,
  type Frontend,
  isTable,
  oncePerKind,
  sameAddress,
  type Table,
  type View,
  viewOf,
  warning,
} from "./view.ts";

/** All findings about relations between keys, errors and warnings; `host` is what is known of the machine. */
export function checkRules(input: unknown, host: HostFacts = ELSEWHERE): Finding[] {
  if (!isTable(input)) return [];
  const view = viewOf(input);
  return [
    ...names(view),
    ...presence(view),
    ...references(view),
    ...listeners(view),
    ...pools(view),
    ...loops(view, host.addresses),
    ...modeRules(view),
    ...healthCheckRules(view),
    ...healthCheckTableRules(view, host),
    ...nameRules(view),
    ...(host.token === undefined ? exposure(view) : tokenRules(view, host)),
    ...groupRules(view, host),
    ...deprecated(view),
    ...idleLogFile(view),
  ];
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

interface Taken {
  address: SocketAddress;
  protocol: unknown;
  owner: string;
}

function listeners(view: View): Finding[] {
  const { frontends, mode } = view;
  const findings: Finding[] = [];
  const taken: Taken[] = [];
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
  return [...findings, ...statsListener(view, taken)];
}

function statsListener({ root, stats }: View, taken: readonly Taken[]): Finding[] {
  if (!stats || stats.port === 0) return [];
  // Node's [::] takes IPv4 too.
  const everything = stats.host === "::";
  const other = taken.find(
    (t) =>
      t.protocol === "tcp" && (overlaps(t.address, stats) || (everything && t.address.port === stats.port)),
  );
  if (!other) return [];
  return [
    error(["stats", "port"], "value", `is taken by frontend ${quote(other.owner)}`, {
      found: describeValue((root.stats as Table).port),
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
      const key = hostPort(server.addr);
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

function modeRules(view: View): Finding[] {
  if (view.mode === undefined) return [];
  return view.mode === "proxy" ? proxyRules(view) : packetRules(view);
}

function proxyRules({ frontends, backends }: View): Finding[] {
  const udp = frontends
    .filter(({ protocol }) => protocol === "udp")
    .map(({ name }) =>
      error(["frontends", name, "protocol"], "value", "UDP is not available in proxy mode", {
        found: '"udp"',
        expected: '"tcp", or mode = "passthrough" or "dsr"',
      }),
    );
  // The kernel wants to know the link, which only a zone could say.
  const linkLocal = (at: KeyPath, address: SocketAddress | undefined, written: unknown): Finding[] =>
    address && isLinkLocal(address.host)
      ? [
          error(at, "value", "is a link-local address, which needs a zone, and zones are not supported", {
            found: describeValue(written),
            expected: "another address of that machine",
          }),
        ]
      : [];
  return [
    ...udp,
    ...frontends.flatMap(({ name, listen, table }) =>
      linkLocal(["frontends", name, "listen_addr"], listen, table.listen_addr),
    ),
    ...[...backends.values()].flatMap((backend) =>
      backend.servers.flatMap(({ name, addr, table }) =>
        linkLocal(["backends", backend.name, "servers", name, "addr"], addr, table.addr),
      ),
    ),
  ];
}

/** An engine that forwards in the process ends with it. */
function keepForwarding({ root: { shutdown, engine } }: View): Finding[] {
  if (!isTable(shutdown) || shutdown.keep_forwarding !== true) return [];
  if (engine !== "af_packet" && engine !== "af_xdp") return [];
  const why = `cannot be had with engine "${engine}", which forwards in the process`;
  const expected = 'false, or engine "tc", "xdp" or "auto"';
  return [error(["shutdown", "keep_forwarding"], "value", why, { found: "true", expected })];
}

function packetRules(view: View): Finding[] {
  const { root, frontends, backends, mode } = view;
  const findings: Finding[] = keepForwarding(view);
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
    if (isLoopback(listen.host)) {
      findings.push(
        error(at, "value", `is a loopback address, for which no packet comes over a network`, {
          found: describeValue(table.listen_addr),
          expected: `an address that clients can reach in ${mode} mode`,
        }),
      );
    }
    for (const server of (backend === undefined ? undefined : backends.get(backend))?.servers ?? []) {
      if (!server.addr || backend === undefined) continue;
      const place = ["backends", backend, "servers", server.name, "addr"];
      const found = describeValue(server.table.addr);
      if (server.addr.family !== listen.family) {
        findings.push(
          error(place, "value", `is not of the address family of frontend ${quote(name)}`, {
            found,
            expected: `an IPv${listen.family} address in ${mode} mode`,
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
  return [
    ...findings,
    ...packetLimits(view),
    ...proxyOnly(view),
    ...trackingRules(view),
    ...withoutEffect(root, frontends, backends, mode ?? ""),
  ];
}

const TRACKING = 'dsr.connection_tracking = "minimal"';

/** Without flows there is nothing to translate answers by, and nothing that a limit could count. */
function trackingRules({ root, mode, frontends, backends }: View): Finding[] {
  const tracking = isTable(root.dsr) ? root.dsr.connection_tracking : undefined;
  if (tracking !== "minimal") return [];
  if (mode !== "dsr") {
    return [
      error(
        ["dsr", "connection_tracking"],
        "value",
        `is not available in ${mode} mode, which needs every flow`,
        {
          found: '"minimal"',
          expected: '"full", or mode = "dsr"',
        },
      ),
    ];
  }
  const limits: [KeyPath, unknown][] = [
    [["limits"], root.limits],
    ...frontends.map(({ name, table }): [KeyPath, unknown] => [["frontends", name], table]),
    ...[...backends.values()].flatMap(({ name, servers }) =>
      servers.map((s): [KeyPath, unknown] => [["backends", name, "servers", s.name], s.table]),
    ),
  ];
  return limits.flatMap(([at, table]) => {
    const limit = isTable(table) ? table.max_connections : undefined;
    if (typeof limit !== "number" || limit === 0) return [];
    return [
      error(
        [...at, "max_connections"],
        "value",
        `needs every connection counted, which ${TRACKING} does not do`,
        {
          found: describeValue(limit),
          expected: '0, or dsr.connection_tracking = "full"',
        },
      ),
    ];
  });
}

/** What the packet path itself refuses. */
function packetLimits({ root, mode }: View): Finding[] {
  const findings: Finding[] = [];
  const perClient = isTable(root.limits) ? root.limits.max_connections_per_client : undefined;
  if (typeof perClient === "number" && perClient > 0) {
    findings.push(
      error(["limits", "max_connections_per_client"], "value", `is not available in ${mode} mode`, {
        found: describeValue(perClient),
        expected: "0",
      }),
    );
  }
  const logged = isTable(root.log) ? root.log.connections : undefined;
  if (logged !== undefined && logged !== "off") {
    findings.push(
      error(
        ["log", "connections"],
        "value",
        `is not available in ${mode} mode, where packets pass and no connection ends here`,
        { found: describeValue(logged), expected: '"off"; convey explain --live shows decisions' },
      ),
    );
  }
  const { workers, port_range } = isTable(root.passthrough) ? root.passthrough : {};
  const range = typeof port_range === "string" ? parsePortRange(port_range) : undefined;
  const threads = typeof workers === "number" && workers > 0 ? workers : availableCpus();
  if (range?.ok && range.value.to - range.value.from + 1 < threads) {
    findings.push(
      error(["passthrough", "port_range"], "value", `has fewer ports than there are workers, ${threads}`, {
        found: describeValue(port_range),
        expected: "a port for each worker at least",
      }),
    );
  }
  return findings;
}

const PROXY_BACKEND_KEYS = [
  "connect_timeout_ms",
  "retries",
  "idle_timeout_ms",
  "max_duration_ms",
  "queue_timeout_ms",
] as const;

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
  const tracking = isTable(root.dsr) ? root.dsr.connection_tracking : undefined;
  // With minimal tracking it is an error.
  const limits = mode === "dsr" && tracking !== "minimal" ? ["max_connections"] : [];
  note(["limits"], root.limits, limits);
  for (const { name, table } of frontends) note(["frontends", name], table, limits);
  for (const { name, table, servers } of backends.values()) {
    note(["backends", name], table, PROXY_BACKEND_KEYS);
    for (const s of servers) note(["backends", name, "servers", s.name], s.table, limits);
  }
  return oncePerKind(written, `has no effect in ${mode} mode`);
}

/** Said where nobody has looked for a token. */
function exposure({ root, stats }: View): Finding[] {
  if (!stats || !isTable(root.stats)) return [];
  const { bind, token_file } = root.stats;
  if (typeof bind !== "string" || isLoopback(stats.host) || token_file !== undefined) return [];
  return [
    warning(["stats", "bind"], "value", "can be reached from other machines, which needs a token", {
      found: describeValue(bind),
      expected: "a loopback address, or a token in stats.token_file or CONVEY_STATS_TOKEN",
    }),
  ];
}

/** A file for lines that nobody writes. */
function idleLogFile({ root }: View): Finding[] {
  const { connections, connections_file: file } = isTable(root.log) ? root.log : {};
  if (file === undefined || (connections !== undefined && connections !== "off")) return [];
  return [
    warning(["log", "connections_file"], "value", 'has no effect while log.connections is "off"', {
      found: describeValue(file),
      expected: 'log.connections = "all", "errors" or a share',
    }),
  ];
}

function deprecated({ frontends }: View): Finding[] {
  const places = frontends.filter(({ table }) => table.xdp !== undefined);
  return oncePerKind(
    places.map(({ name }) => ["frontends", name, "xdp"]),
    "is deprecated and has no effect: the built-in program is used",
  );
}

/** Whether two listeners cannot both have their address: equal, or one the wildcard of the other's family. */
function overlaps(a: SocketAddress, b: SocketAddress): boolean {
  if (a.port !== b.port || a.family !== b.family) return false;
  return a.host === b.host || isWildcard(a) || isWildcard(b);
}

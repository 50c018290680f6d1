/**
 * What the schema cannot say: rules between keys. They read the input as it was written, so that they speak
 * even when the schema has refused something elsewhere, and pass over what it refused itself.
 */

import { hostPort, isLinkLocal, isLoopback, parsePortRange } from "./address.ts";
import { admissionRules, packetClientLimit } from "./admission.ts";
import { balanceRules } from "./balance.ts";
import { clientAddressRules } from "./client-address.ts";
import { availableCpus } from "./cpus.ts";
import { healthCheckTableRules } from "./health-check-table.ts";
import { healthCheckRules } from "./health-checks.ts";
import { backendsWritten, helloRouteRules } from "./hello-routes.ts";
import { ELSEWHERE, groupRules, type HostFacts, tokenRules } from "./host.ts";
import { entriesOf } from "./include.ts";
import { listenerRules, packetListenerRules } from "./listeners.ts";
import { loops } from "./loops.ts";
import { nameRules } from "./name-rules.ts";
import { nearest } from "./nearest.ts";
import { describeValue, type Finding, type KeyPath, oneOf, quote } from "./problem.ts";
import { proxyOnly } from "./proxy-only.ts";
import { udpRules } from "./udp.ts";
import {
  type Backend,
  error,
  type Frontend,
  isTable,
  oncePerKind,
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
    ...included(view),
    ...names(view),
    ...presence(view),
    ...references(view),
    ...listenerRules(view),
    ...pools(view),
    ...loops(view, host.addresses),
    ...modeRules(view),
    ...admissionRules(view),
    ...balanceRules(view),
    ...clientAddressRules(view),
    ...udpRules(view),
    ...healthCheckRules(view),
    ...helloRouteRules(view),
    ...healthCheckTableRules(view, host),
    ...nameRules(view),
    ...(host.token === undefined ? exposure(view) : tokenRules(view, host)),
    ...groupRules(view, host),
    ...deprecated(view),
    ...idleLogFile(view),
  ];
}

function names({ root, frontends, backends }: View): Finding[] {
  // zod's record passes over this one name, since assigning it would change the object's prototype.
  const reserved = "__proto__";
  const places: [KeyPath, unknown][] = [
    [["frontends"], root.frontends],
    [["backends"], root.backends],
    ...frontends.flatMap(({ name, table }): [KeyPath, unknown][] =>
      ["sni", "alpn"].map((key) => [["frontends", name, key], table[key]]),
    ),
    ...[...backends.values()].map((b): [KeyPath, unknown] => [
      ["backends", b.name, "servers"],
      b.table.servers,
    ]),
  ];
  return places
    .filter(([, table]) => isTable(table) && Object.hasOwn(table, reserved))
    .map(([at]) => error([...at, reserved], "key", "this name is reserved"));
}

/** Files have had it replaced by what it names. */
function included({ root }: View): Finding[] {
  if (entriesOf(root.include) === undefined) return [];
  const message = "is for files: a text or an object by itself includes none";
  return [error(["include"], "key", message, { expected: "all of it in one, or a file" })];
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
  for (const frontend of frontends) {
    const { name, backend } = frontend;
    for (const one of backendsWritten(frontend)) used.add(one);
    if (backend === undefined) continue;
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
  // The kernel wants to know the link, which only a zone could say.
  const linkLocal = (at: KeyPath, address: { host: string } | undefined, written: unknown): Finding[] =>
    address && isLinkLocal(address.host)
      ? [
          error(at, "value", "is a link-local address, which needs a zone, and zones are not supported", {
            found: describeValue(written),
            expected: "another address of that machine",
          }),
        ]
      : [];
  return [
    ...frontends.flatMap(({ listen }) => listen.flatMap((own) => linkLocal(own.at, own, own.written))),
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
  return [
    ...keepForwarding(view),
    ...packetListenerRules(view),
    ...packetLimits(view),
    ...proxyOnly(view),
    ...packetClientLimit(view),
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
  note(["limits"], root.limits, [...limits, "client_ipv6_prefix"]);
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

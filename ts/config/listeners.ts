/** Where frontends and the HTTP server listen: that each says it once, and that no two have the same address and port. */
import { isLoopback, type SocketAddress } from "./address.ts";
import { formatListen, isEverywhere, type ListenRange } from "./listen.ts";
import { nearest } from "./nearest.ts";
import { describeValue, type Finding, formatPath, quote } from "./problem.ts";
import { expectedAt, keysOf, schemaAt } from "./shape.ts";
import {
  type Backend,
  error,
  type Frontend,
  isTable,
  type Listen,
  type Table,
  type View,
  warning,
} from "./view.ts";

const OF_ITS_OWN = { expected: "an address and port of its own" };

interface Taken extends Listen {
  protocol: unknown;
  owner: string;
}

/** What is wrong with where frontends listen, in every mode. */
export function listenerRules(view: View): Finding[] {
  const findings = view.frontends.flatMap(writtenOnce);
  const taken: Taken[] = [];
  for (const { name, listen, protocol } of view.frontends) {
    for (const own of listen) {
      if (own.from === 0) continue;
      const other = taken.find((t) => t.protocol === protocol && overlaps(t, own));
      if (other) findings.push(clash(view.mode, name, own, other));
      taken.push({ ...own, protocol, owner: name });
    }
  }
  return [...findings, ...statsListener(view, taken)];
}

/** By `listen` or by `listen_addr`. What neither says is told at the key that every version knows. */
function writtenOnce({ name, table }: Frontend): Finding[] {
  const at = ["frontends", name];
  if (table.listen !== undefined && table.listen_addr !== undefined) {
    return [
      error([...at, "listen_addr"], "key", "says where to listen a second time, after listen", {
        found: describeValue(table.listen_addr),
        expected: "all of it in listen",
      }),
    ];
  }
  if (table.listen !== undefined || table.listen_addr !== undefined) return [];
  // One mistake: a key that is misspelt is told where it stands.
  const known = keysOf(schemaAt(at)) ?? [];
  const misspelt = Object.keys(table).some(
    (key) => !known.includes(key) && ["listen", "listen_addr"].includes(nearest(key, known) ?? ""),
  );
  const schema = schemaAt([...at, "listen_addr"]);
  const expected = schema === undefined ? {} : { expected: expectedAt(schema) };
  return misspelt ? [] : [error([...at, "listen_addr"], "table", "is missing", expected)];
}

function clash(mode: View["mode"], name: string, own: Listen, other: Taken): Finding {
  const found = describeValue(own.written);
  const itself = other.owner === name;
  const same = own.host === other.host;
  // Of a single address by a single address nothing is to be told that is not written there.
  const where =
    own.from === own.to && other.from === other.to && same
      ? ""
      : ` (${formatListen(common(own, other))} is in ${quote(String(other.written))}, ${formatPath(other.at)})`;
  if (itself) return error(own.at, "value", `is listened on twice${where}`, { found, ...OF_ITS_OWN });
  if (same) {
    return error(own.at, "value", `is the address of frontend ${quote(other.owner)} too${where}`, {
      found,
      ...OF_ITS_OWN,
    });
  }
  // Two listening sockets cannot hold a wildcard and one of its addresses; the packet modes can, and
  // take the more specific frontend first.
  const message = `overlaps with frontend ${quote(other.owner)}: one of them is the wildcard address on the same port`;
  const finding = mode === "proxy" ? error : warning;
  const ranges = own.from === own.to && other.from === other.to ? "" : where;
  return finding(own.at, "value", `${message}${ranges}`, { found, ...OF_ITS_OWN });
}

/** What two overlapping places have in common, at the address of the first. */
function common(a: ListenRange, b: ListenRange): ListenRange {
  return { ...a, from: Math.max(a.from, b.from), to: Math.min(a.to, b.to) };
}

function statsListener({ root, stats }: View, taken: readonly Taken[]): Finding[] {
  if (!stats || stats.port === 0) return [];
  const own = rangeOf(stats);
  // Node's [::] takes IPv4 too.
  const everything = stats.host === "::";
  const other = taken.find(
    (t) =>
      t.protocol === "tcp" && (overlaps(t, own) || (everything && t.from <= own.from && own.from <= t.to)),
  );
  if (!other) return [];
  return [
    error(["stats", "port"], "value", `is taken by frontend ${quote(other.owner)}`, {
      found: describeValue((root.stats as Table).port),
      expected: "a port of its own",
    }),
  ];
}

const rangeOf = ({ family, host, port }: SocketAddress): ListenRange => ({
  family,
  host,
  from: port,
  to: port,
});

/** Whether two listeners cannot both have their addresses: equal, or one the wildcard of the other's family. */
function overlaps(a: ListenRange, b: ListenRange): boolean {
  if (a.family !== b.family || a.to < b.from || b.to < a.from) return false;
  return a.host === b.host || isEverywhere(a) || isEverywhere(b);
}

/** What packets cannot be sent to, or no server could answer for, in passthrough and dsr mode. */
export function packetListenerRules({ root, frontends, backends, mode }: View): Finding[] {
  return frontends.flatMap((frontend) => {
    const servers = frontend.backend === undefined ? undefined : backends.get(frontend.backend)?.servers;
    return [
      ...frontend.listen.flatMap((listen) => placeRules(listen, mode ?? "")),
      ...(servers ?? []).flatMap((server) => serverRules(frontend, server, mode)),
      ...limitRules(frontend, mode, isTable(root) ? root.engine : undefined),
    ];
  });
}

function placeRules({ at, written, host, from }: Listen, mode: string): Finding[] {
  const found = describeValue(written);
  if (from === 0) {
    return [
      error(at, "value", `has port 0, which only proxy mode can let the kernel choose`, {
        found,
        expected: "a port from 1 to 65535",
      }),
    ];
  }
  if (!isLoopback(host)) return [];
  return [
    error(at, "value", `is a loopback address, for which no packet comes over a network`, {
      found,
      expected: `an address that clients can reach in ${mode} mode`,
    }),
  ];
}

function serverRules(
  { name, listen: all, backend }: Frontend,
  server: Backend["servers"][number],
  mode: View["mode"],
): Finding[] {
  const { addr } = server;
  const listen = all.filter(({ from }) => from !== 0);
  if (!addr || listen.length === 0) return [];
  const place = ["backends", String(backend), "servers", server.name, "addr"];
  const found = describeValue(server.table.addr);
  const other = listen.find(({ family }) => family !== addr.family);
  if (other) {
    return [
      error(place, "value", `is not of the address family of frontend ${quote(name)}`, {
        found,
        expected: `an IPv${other.family} address in ${mode} mode`,
      }),
    ];
  }
  if (mode !== "dsr" || listen.some(({ from, to }) => from <= addr.port && addr.port <= to)) return [];
  const ports = listen.map(({ from, to }) => (from === to ? String(from) : `${from}-${to}`));
  return [
    error(
      place,
      "value",
      `has another port than frontend ${quote(name)}, and dsr mode leaves ports as they are`,
      {
        found,
        expected: `port ${[...new Set(ports)].join(" or ")}`,
      },
    ),
  ];
}

/** Programs in the kernel count by address and port. */
function limitRules({ name, table, listen }: Frontend, mode: View["mode"], engine: unknown): Finding[] {
  const limit = table.max_connections;
  const several = listen.length > 1 || listen.some(({ from, to }) => from !== to);
  if (mode !== "passthrough" || engine === "af_packet" || engine === "af_xdp" || !several) return [];
  if (typeof limit !== "number" || limit === 0) return [];
  return [
    error(
      ["frontends", name, "max_connections"],
      "value",
      "cannot be kept over several addresses or ports by kernel programs, which count each by itself",
      {
        found: describeValue(limit),
        expected:
          '0 with limits of the servers or limits.max_connections instead, or engine "af_packet" or "af_xdp"',
      },
    ),
  ];
}

/**
 * Servers that lead back to the balancer: connections would go in a circle until file descriptors run out, and
 * the health checks alone would start it. Frontends are the nodes of a graph; there is an edge from one to
 * another where a server of the first is an address on which the second listens. Every edge within a circle is
 * told. A weight of 0 changes nothing: the checks connect all the same, and weights change at run time.
 */
import { isLoopback, isWildcard, type SocketAddress } from "./address.ts";
import { backendsWritten } from "./hello-routes.ts";
import { formatListen, isEverywhere, MAX_LISTEN } from "./listen.ts";
import { describeValue, type Finding, type KeyPath, quote } from "./problem.ts";
import { error, type Frontend, type Listen, type Server, sameAddress, type View } from "./view.ts";

/** One server of a frontend's backend that is the listening address of a frontend. */
interface Edge {
  to: Frontend;
  server: Server;
  at: KeyPath;
  /** How it is known that a listening wildcard includes the server's address. */
  why: string;
}

/** `own`: the addresses of this host's interfaces, as far as they are known. */
export function loops(view: View, own: ReadonlySet<string>): Finding[] {
  if (view.mode === undefined) return [];
  const isLocal = localTo(view, own);
  const findings =
    view.mode === "proxy"
      ? [...circles(view, isLocal), ...statsAsServer(view, isLocal)]
      : serversHere(view, isLocal);
  // A backend of several frontends would tell the same server again.
  const told = new Set<string>();
  return findings.filter(({ at }) => {
    const place = at.join("\0");
    return !told.has(place) && told.add(place);
  });
}

/** Says why an address is one of this host's; undefined when it is not known to be. */
type LocalTest = (host: string) => string | undefined;

function localTo({ frontends, stats }: View, own: ReadonlySet<string>): LocalTest {
  const listening = new Map<string, string>();
  for (const { name, listen } of frontends) {
    for (const own of listen) {
      if (!isEverywhere(own)) listening.set(own.host, `frontend ${quote(name)} listens on it`);
    }
  }
  if (stats && !isWildcard(stats)) listening.set(stats.host, "stats.bind is that address");
  return (host) => {
    if (isLoopback(host)) return "it is a loopback address";
    return listening.get(host) ?? (own.has(host) ? "it is an address of this host" : undefined);
  };
}

function circles({ frontends, backends }: View, isLocal: LocalTest): Finding[] {
  // By port: a range of a thousand ports stands at each of them.
  const listening = new Map<number, { to: Frontend; listen: Listen }[]>();
  for (const to of frontends) {
    for (const listen of to.listen) {
      for (let port = listen.from; port <= Math.min(listen.to, listen.from + MAX_LISTEN); port++) {
        const there = listening.get(port);
        if (there) there.push({ to, listen });
        else listening.set(port, [{ to, listen }]);
      }
    }
  }
  const edges = new Map(
    frontends.map((from) => [from.name, backendsWritten(from).flatMap((name) => edgesOf(from, name))]),
  );

  function edgesOf(from: Frontend, backend: string): Edge[] {
    return (backends.get(backend)?.servers ?? []).flatMap((server) => {
      const { addr } = server;
      if (!addr) return [];
      const at = ["backends", backend, "servers", server.name, "addr"];
      return (listening.get(addr.port) ?? []).flatMap(({ to, listen }) => {
        if (to.protocol !== from.protocol) return [];
        const why = accepts(listen, addr, isLocal);
        return why === undefined ? [] : [{ to, server, at, why }];
      });
    });
  }

  return frontends.flatMap((from) =>
    (edges.get(from.name) ?? []).flatMap(({ to, server, at, why }) => {
      const back = wayBack(edges, to, from);
      if (back === undefined) return [];
      const itself = back.length === 0;
      const through = [to.name, ...back].slice(0, -1);
      const way = itself
        ? "itself listens"
        : `listens, which leads back to frontend ${quote(from.name)}${
            through.length > 1
              ? ` through ${through
                  .slice(1)
                  .map((name) => quote(name))
                  .join(", ")}`
              : ""
          }`;
      return [
        error(
          at,
          "value",
          `is where frontend ${quote(to.name)} ${way}${why && ` (${why})`}: connections would go in a circle`,
          { found: describeValue(server.table.addr), expected: "a server elsewhere" },
        ),
      ];
    }),
  );
}

/** Whether a listener takes connections to an address: "" when it is the same, else why. */
function accepts(listen: Listen, addr: SocketAddress, isLocal: LocalTest): string | undefined {
  // A frontend's [::] takes IPv6 alone.
  if (listen.from === 0 || listen.family !== addr.family) return undefined;
  if (listen.host === addr.host) return "";
  if (!isEverywhere(listen)) return undefined;
  const why = isLocal(addr.host);
  return why === undefined ? undefined : `${formatListen(listen)} takes ${addr.host}, since ${why}`;
}

/** The frontends on the shortest way from one to another, the last one included; empty when they are the same. */
function wayBack(
  edges: ReadonlyMap<string, readonly Edge[]>,
  from: Frontend,
  to: Frontend,
): string[] | undefined {
  const ways = new Map<string, string[]>([[from.name, []]]);
  // A Map goes on to what is added while it is walked.
  for (const [name, way] of ways) {
    if (name === to.name) return way;
    for (const edge of edges.get(name) ?? []) {
      if (!ways.has(edge.to.name)) ways.set(edge.to.name, [...way, edge.to.name]);
    }
  }
  return undefined;
}

/**
 * The HTTP server behind a frontend would take every client for one on this machine, which it answers without
 * a token.
 */
function statsAsServer({ stats, frontends, backends }: View, isLocal: LocalTest): Finding[] {
  if (!stats || stats.port === 0) return [];
  const tcp = frontends.filter(({ protocol }) => protocol !== "udp");
  return tcp.flatMap(backendsWritten).flatMap((backend) =>
    (backends.get(backend)?.servers ?? []).flatMap((server) => {
      const { addr } = server;
      if (!addr || addr.port !== stats.port) return [];
      // The HTTP server's [::] takes IPv4 too.
      const taken =
        sameAddress(stats, addr) ||
        (isWildcard(stats) && (stats.family === 6 || addr.family === 4) && isLocal(addr.host) !== undefined);
      if (!taken) return [];
      return [
        error(
          ["backends", backend, "servers", server.name, "addr"],
          "value",
          "is where the HTTP server of [stats] listens: it would take every client for one on this machine",
          { found: describeValue(server.table.addr), expected: "a server elsewhere" },
        ),
      ];
    }),
  );
}

/** In the packet modes packets leave for another machine; one to an address of our own would never come back in. */
function serversHere({ mode, frontends, backends }: View, isLocal: LocalTest): Finding[] {
  return frontends.flatMap(({ backend }) =>
    (backends.get(backend ?? "")?.servers ?? []).flatMap((server) => {
      const why = server.addr && isLocal(server.addr.host);
      if (why === undefined || backend === undefined) return [];
      return [
        error(
          ["backends", backend, "servers", server.name, "addr"],
          "value",
          `is on the balancer's own machine (${why}), which ${mode} mode cannot reach`,
          { found: describeValue(server.table.addr), expected: "a server on another machine" },
        ),
      ];
    }),
  );
}

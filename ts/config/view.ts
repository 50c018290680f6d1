/**
 * The configuration as the rules between keys see it: read as it was written, so that rules speak even when the
 * schema has refused something elsewhere. What the schema refuses itself is undefined here.
 */
import { hostPort, parseSocketAddress, type SocketAddress } from "./address.ts";
import { type ListenRange, parseListen } from "./listen.ts";
import type { Finding, KeyPath } from "./problem.ts";

export type Table = Readonly<Record<string, unknown>>;

export interface Frontend {
  name: string;
  table: Table;
  /** Where it listens, as far as that can be read, in the order written. */
  listen: Listen[];
  protocol: unknown;
  backend: string | undefined;
}

/** One of the places where a frontend listens, and where the configuration says so. */
export interface Listen extends ListenRange {
  at: KeyPath;
  written: unknown;
}

export interface Server {
  name: string;
  table: Table;
  addr: SocketAddress | undefined;
}

export interface Backend {
  name: string;
  table: Table;
  servers: Server[];
}

export interface View {
  root: Table;
  /** Undefined when it is not one of the modes. */
  mode: "proxy" | "passthrough" | "dsr" | undefined;
  frontends: Frontend[];
  backends: Map<string, Backend>;
  /** Where the HTTP server listens. */
  stats: SocketAddress | undefined;
}

export function viewOf(root: Table): View {
  const mode = root.mode ?? "proxy";
  return {
    root,
    mode: mode === "proxy" || mode === "passthrough" || mode === "dsr" ? mode : undefined,
    frontends: entries(root.frontends).map(([name, table]) => ({
      name,
      table,
      listen: listensOf(name, table),
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
            addr: addressOf(own.addr, false),
          })),
        },
      ]),
    ),
    stats: statsOf(root),
  };
}

function listensOf(name: string, { listen, listen_addr }: Table): Listen[] {
  const at = ["frontends", name];
  const written: [KeyPath, unknown][] = Array.isArray(listen)
    ? listen.map((item, index): [KeyPath, unknown] => [[...at, "listen", index], item])
    : [[[...at, "listen"], listen]];
  return [...written, [[...at, "listen_addr"], listen_addr] as const].flatMap(([place, text]) => {
    const parsed = typeof text === "string" ? parseListen(text) : undefined;
    return parsed?.ok ? [{ ...parsed.value, at: place, written: text }] : [];
  });
}

function statsOf({ stats }: Table): SocketAddress | undefined {
  if (!isTable(stats)) return undefined;
  const { port, bind = "127.0.0.1" } = stats;
  if (typeof bind !== "string" || (typeof port !== "string" && typeof port !== "number")) return undefined;
  return addressOf(hostPort({ host: bind, port }), true);
}

function addressOf(value: unknown, wildcard: boolean): SocketAddress | undefined {
  if (typeof value !== "string") return undefined;
  const parsed = parseSocketAddress(value, { wildcard });
  return parsed.ok ? parsed.value : undefined;
}

function entries(value: unknown): [string, Table][] {
  if (!isTable(value)) return [];
  return Object.entries(value).filter((entry): entry is [string, Table] => isTable(entry[1]));
}

export function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function sameAddress(a: SocketAddress, b: SocketAddress): boolean {
  return a.port === b.port && a.family === b.family && a.host === b.host;
}

type Details = Pick<Finding, "found" | "expected" | "suggestion">;

export function error(at: KeyPath, point: Finding["point"], message: string, details: Details = {}): Finding {
  return { severity: "error", at, point, message, ...details };
}

export function warning(
  at: KeyPath,
  point: Finding["point"],
  message: string,
  details: Details = {},
): Finding {
  return { severity: "warning", at, point, message, ...details };
}

/** One warning for each kind of key, at the first place where it stands. */
export function oncePerKind(places: readonly KeyPath[], message: string, details: Details = {}): Finding[] {
  const kinds = new Map<string, KeyPath[]>();
  for (const at of places) {
    // The same key of another frontend, backend or server is the same kind.
    const kind = `${at[0]} ${at.length} ${at.at(-1)}`;
    kinds.set(kind, [...(kinds.get(kind) ?? []), at]);
  }
  return [...kinds.values()].map((same) => {
    const more = same.length - 1;
    const others = more === 0 ? "" : `, here and at ${more} other ${more === 1 ? "place" : "places"}`;
    return warning(same[0] as KeyPath, "key", `${message}${others}`, details);
  });
}

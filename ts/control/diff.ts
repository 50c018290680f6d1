/** What lies between two configurations, and how a reload tells it. */
import { isDeepStrictEqual } from "node:util";
import { serverKey } from "../config/lower.ts";
import { formatPath, inert } from "../config/problem.ts";
import type { Config, ServerConfig } from "../config/schema.ts";

/** One difference. `name` of a server is `backend/server`; `path` is the key path in the configuration. */
export type Change =
  | { kind: "added" | "removed"; what: "frontend" | "backend" | "server"; name: string }
  | { kind: "changed"; path: string; server?: string; from: unknown; to: unknown };

/** Names told of one kind, and changed settings told, before "and n more". */
const NAMES = 3;
const SETTINGS = 6;

type Table = Readonly<Record<string, unknown>>;

/** Every difference: what came, what went, then settings in the order of the file. */
export function diffConfig(before: Config, after: Config): Change[] {
  const { frontends: oldFrontends, backends: oldBackends, ...oldRest } = before;
  const { frontends, backends, ...rest } = after;
  const [oldServers, servers] = [serversOf(before), serversOf(after)];
  return [
    ...members("frontend", oldFrontends, frontends),
    ...members("backend", oldBackends, backends),
    ...members("server", oldServers, servers),
    ...common(oldFrontends, frontends).flatMap((name) =>
      settings(formatPath(["frontends", name]), oldFrontends[name], frontends[name]),
    ),
    ...common(oldBackends, backends).flatMap((name) => {
      const [{ servers: _, ...old }, { servers: __, ...now }] = [
        oldBackends[name] as Config["backends"][string],
        backends[name] as Config["backends"][string],
      ];
      return settings(formatPath(["backends", name]), old, now);
    }),
    ...changedServers(oldServers, servers),
    ...settings("", oldRest, rest),
  ];
}

/** The differences between the servers of one backend. */
export function diffServers(
  backend: string,
  before: ReadonlyMap<string, ServerConfig>,
  after: ReadonlyMap<string, ServerConfig>,
): Change[] {
  const named = (servers: ReadonlyMap<string, ServerConfig>): Record<string, Server> =>
    Object.fromEntries(
      [...servers].map(([name, it]) => [serverKey(backend, name), { backend, name, settings: it }]),
    );
  const [old, now] = [named(before), named(after)];
  return [...members("server", old, now), ...changedServers(old, now)];
}

/** "+1 server app/three, weight app/one 2→3"; "" for no changes. */
export function describeChanges(changes: readonly Change[]): string {
  const clauses: string[] = [];
  for (const [kind, sign] of [
    ["added", "+"],
    ["removed", "−"],
  ] as const) {
    for (const what of ["frontend", "backend", "server"] as const) {
      const names = changes.flatMap((c) => (c.kind === kind && c.what === what ? [c.name] : []));
      if (names.length > 0)
        clauses.push(`${sign}${names.length} ${plural(what, names.length)} ${some(names)}`);
    }
  }
  const changed = changes.flatMap((c) => (c.kind === "changed" ? [told(c)] : []));
  clauses.push(...changed.slice(0, SETTINGS));
  if (changed.length > SETTINGS) clauses.push(`and ${changed.length - SETTINGS} more changes`);
  return inert(clauses.join(", "));
}

/** One change as a line: "+ server app/three", "weight app/one 2→3". */
export function describeChange(change: Change): string {
  if (change.kind === "changed") return inert(told(change));
  return inert(`${change.kind === "added" ? "+" : "−"} ${change.what} ${change.name}`);
}

function told({ path, server, from, to }: Extract<Change, { kind: "changed" }>): string {
  const setting = server === undefined ? path : `${path.slice(path.lastIndexOf(".") + 1)} ${server}`;
  if (isLong(from) || isLong(to)) return `${setting} ${listChange(from, to)}`;
  return `${setting} ${text(from)}→${text(to)}`;
}

const isLong = (value: unknown): boolean => Array.isArray(value) && value.length > SETTINGS;

/** What came to a list and went from it: nobody finds that in two long lists. */
function listChange(from: unknown, to: unknown): string {
  const [old, now] = [from, to].map((list) => new Set(Array.isArray(list) ? list.map(String) : []));
  const clauses = (
    [
      ["+", now, old],
      ["−", old, now],
    ] as const
  ).flatMap(([sign, list, other]) => {
    const names = [...(list ?? [])].filter((name) => !other?.has(name));
    return names.length === 0 ? [] : [`${sign}${names.length} ${some(names)}`];
  });
  return clauses.length === 0 ? "in another order" : clauses.join(", ");
}

const text = (value: unknown): string =>
  value === undefined ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value);

const plural = (what: string, n: number): string => (n === 1 ? what : `${what}s`);

function some(names: readonly string[]): string {
  const shown = names.slice(0, NAMES).join(", ");
  return names.length > NAMES ? `${shown} and ${names.length - NAMES} more` : shown;
}

function members(what: "frontend" | "backend" | "server", before: Table, after: Table): Change[] {
  const missing = (from: Table, other: Table) => Object.keys(from).filter((n) => !Object.hasOwn(other, n));
  return [
    ...missing(after, before).map((name): Change => ({ kind: "added", what, name })),
    ...missing(before, after).map((name): Change => ({ kind: "removed", what, name })),
  ];
}

const common = (before: Table, after: Table): string[] =>
  Object.keys(after).filter((name) => Object.hasOwn(before, name));

type Server = { backend: string; name: string; settings: Table };

function serversOf({ backends }: Config): Record<string, Server> {
  return Object.fromEntries(
    Object.entries(backends).flatMap(([backend, { servers }]) =>
      Object.entries(servers).map(([name, it]) => [
        serverKey(backend, name),
        { backend, name, settings: it },
      ]),
    ),
  );
}

function changedServers(old: Record<string, Server>, now: Record<string, Server>): Change[] {
  return common(old, now).flatMap((key) => {
    const { backend, name, settings: to } = now[key] as Server;
    return settings(formatPath(["backends", backend, "servers", name]), old[key]?.settings, to).map((c) =>
      c.kind === "changed" ? { ...c, server: key } : c,
    );
  });
}

/** Settings that differ, tables from the inside. */
function settings(path: string, from: unknown, to: unknown): Change[] {
  if (isDeepStrictEqual(from, to)) return [];
  if (!isTable(from) || !isTable(to)) return [{ kind: "changed", path, from, to }];
  return [...new Set([...Object.keys(from), ...Object.keys(to)])].flatMap((key) =>
    settings(path === "" ? key : `${path}.${key}`, from[key], to[key]),
  );
}

const isTable = (value: unknown): value is Table =>
  typeof value === "object" && value !== null && !Array.isArray(value);

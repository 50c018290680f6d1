/** What a reload would take out of service, and how many connections or flows it has now. */
import { hostPort } from "../config/address.ts";
import { type Listening, listenAddresses, listenText } from "../config/listen.ts";
import { serverKey } from "../config/lower.ts";
import type { Config } from "../config/schema.ts";
import type { FlowPage } from "./flows.ts";
import type { Stats } from "./stats.ts";

/**
 * What would no longer take new connections, with its connections in proxy mode, its flows in the packet modes; absent
 * where they are not known.
 */
export type Touched = {
  name: string;
  address: string;
  change: "removed" | "moved";
  current_connections?: number;
  current_flows?: number;
};

/** The servers in service, as `backend/server`, that one of the configuration stands for: addresses of a name. */
export type ServedAs = (key: string) => string[];

/** Live flows, a page at a time from `cursor` on. */
export type FlowPages = (cursor: string | undefined) => Promise<FlowPage>;

/** Flows looked at; a table may have millions. */
const MOST_FLOWS = 200_000;

/** See the module's head; `partial` says why flows may be missing from the counts. */
export async function touched(
  now: Config,
  next: Config,
  { stats, servedAs }: { stats: Pick<Stats, "frontends" | "backends">; servedAs: ServedAs },
  pages: FlowPages,
): Promise<{ frontends: Touched[]; servers: Touched[]; partial: string | null }> {
  const frontends = touchedFrontends(now, next, stats);
  const servers = touchedServers(now, next, stats, servedAs);
  if (now.mode === "proxy" || frontends.length + servers.length === 0) {
    return { frontends, servers, partial: null };
  }
  const { ofFrontend, ofServer, partial } = await count(pages);
  const sum = (flows: ReadonlyMap<string, number>, names: readonly string[]): number =>
    names.reduce((all, name) => all + (flows.get(name) ?? 0), 0);
  return {
    frontends: frontends.map((it) => ({ ...it, current_flows: sum(ofFrontend, [it.name]) })),
    servers: servers.map((it) => ({ ...it, current_flows: sum(ofServer, servedAs(it.name)) })),
    partial,
  };
}

async function count(pages: FlowPages): Promise<{
  ofFrontend: ReadonlyMap<string, number>;
  ofServer: ReadonlyMap<string, number>;
  partial: string | null;
}> {
  const [ofFrontend, ofServer] = [new Map<string, number>(), new Map<string, number>()];
  const add = (to: Map<string, number>, name: string): unknown => to.set(name, (to.get(name) ?? 0) + 1);
  let cursor: string | undefined;
  let partial: string | null = null;
  let seen = 0;
  do {
    const page = await pages(cursor);
    for (const { frontend, server } of page.flows) {
      add(ofFrontend, frontend);
      if (server !== null) add(ofServer, `${server.backend}/${server.name}`);
    }
    seen += page.flows.length;
    partial ??= page.partial;
    cursor = page.cursor ?? undefined;
  } while (cursor !== undefined && seen < MOST_FLOWS);
  if (cursor !== undefined) partial = `there are more flows than the first ${seen}, which alone were counted`;
  return { ofFrontend, ofServer, partial };
}

function touchedFrontends(now: Config, next: Config, stats: Pick<Stats, "frontends">): Touched[] {
  return Object.entries(now.frontends).flatMap(([name, frontend]) => {
    const later = own(next.frontends, name);
    const same = later?.protocol === frontend.protocol && isSubset(frontend, later);
    if (same) return [];
    const change = later === undefined ? ("removed" as const) : ("moved" as const);
    return [{ name, address: listenText(frontend), change, ...connections(own(stats.frontends, name)) }];
  });
}

/** Whether every address of `now` is one of `later`: listeners that stay are not touched. */
function isSubset(now: Listening, later: Listening): boolean {
  const after = new Set(listenAddresses(later).map(hostPort));
  return listenAddresses(now).every((address) => after.has(hostPort(address)));
}

function touchedServers(
  now: Config,
  next: Config,
  stats: Pick<Stats, "backends">,
  servedAs: ServedAs,
): Touched[] {
  return Object.entries(now.backends).flatMap(([backend, { servers }]) =>
    Object.entries(servers).flatMap(([server, { addr }]) => {
      const later = own(own(next.backends, backend)?.servers ?? {}, server);
      if (later?.addr === addr) return [];
      const change = later === undefined ? ("removed" as const) : ("moved" as const);
      const details = own(stats.backends, backend)?.server_details ?? {};
      const name = serverKey(backend, server);
      const counts = servedAs(name).map(
        (key) => own(details, key.slice(backend.length + 1))?.current_connections,
      );
      return [{ name, address: addr, change, ...together(counts) }];
    }),
  );
}

const own = <T>(table: Readonly<Record<string, T>>, name: string): T | undefined =>
  Object.hasOwn(table, name) ? table[name] : undefined;

const connections = (it: { current_connections?: number } | undefined): { current_connections?: number } =>
  it?.current_connections === undefined ? {} : { current_connections: it.current_connections };

/** Of all addresses of a name; one without an address has no connection. */
function together(counts: readonly (number | undefined)[]): { current_connections?: number } {
  return counts.includes(undefined)
    ? {}
    : { current_connections: counts.reduce<number>((sum, count) => sum + (count ?? 0), 0) };
}

/** For people. */
export function touchedLine(what: string, it: Touched): string {
  const how = it.change === "removed" ? "goes" : "gets another address";
  const [open, kind] =
    it.current_flows === undefined ? [it.current_connections, "connection"] : [it.current_flows, "flow"];
  const count =
    open === undefined ? "connections are not counted" : `${open} open ${kind}${open === 1 ? "" : "s"}`;
  return `${what} ${it.name} (${it.address}) ${how}: ${count}${open === 0 ? "" : "; they go on"}`;
}

/**
 * What was changed in the servers of a configuration while it ran, over the configuration as its file (or the
 * program) gives it. A change of a server stands until that server's own entry in the configuration comes, goes
 * or differs, since the file then speaks last, or until its backend goes.
 */
import { isDeepStrictEqual } from "node:util";
import { serverKey } from "../config/lower.ts";
import type { Config, ServerConfig } from "../config/schema.ts";

/** One server: its entry in the configuration when it was changed, and what stands in its place; undefined is none. */
export type OverlayEntry = {
  readonly backend: string;
  readonly server: string;
  readonly configured: ServerConfig | undefined;
  readonly now: ServerConfig | undefined;
};

/** Changes by `serverKey()`. */
export type Overlay = ReadonlyMap<string, OverlayEntry>;

export const NO_CHANGES: Overlay = new Map();

/** The servers of a backend of `base` with the changes; undefined when there is no such backend. */
export function serversOf(
  base: Config,
  overlay: Overlay,
  backend: string,
): Map<string, ServerConfig> | undefined {
  if (!Object.hasOwn(base.backends, backend)) return undefined;
  const servers = new Map(Object.entries(base.backends[backend]?.servers ?? {}));
  for (const entry of overlay.values()) {
    if (entry.backend !== backend) continue;
    if (entry.now === undefined) servers.delete(entry.server);
    else servers.set(entry.server, entry.now);
  }
  return servers;
}

/** `base` with the changes in place. */
export function withChanges(base: Config, overlay: Overlay): Config {
  const touched = new Set([...overlay.values()].map(({ backend }) => backend));
  if (touched.size === 0) return base;
  const backends = Object.entries(base.backends).map(([name, backend]) => {
    if (!touched.has(name)) return [name, backend] as const;
    const servers = serversOf(base, overlay, name) ?? new Map<string, ServerConfig>();
    return [name, { ...backend, servers: Object.fromEntries(servers) }] as const;
  });
  return { ...base, backends: Object.fromEntries(backends) };
}

/** The changes that still stand over `base`, a later configuration. */
export function rebase(overlay: Overlay, base: Config): Overlay {
  return new Map(
    [...overlay].filter(([, { backend, server, configured, now }]) => {
      if (!Object.hasOwn(base.backends, backend)) return false;
      const entry = configuredServer(base, backend, server);
      return isDeepStrictEqual(entry, configured) && !isDeepStrictEqual(entry, now);
    }),
  );
}

/** A server of a backend as it is to be from now on; undefined removes it. */
export type Edit = { backend: string; server: string; now: ServerConfig | undefined };

/** With servers of `base` changed, whose backends exist. */
export function edit(base: Config, overlay: Overlay, edits: Iterable<Edit>): Overlay {
  const next = new Map(overlay);
  for (const { backend, server, now } of edits) {
    const key = serverKey(backend, server);
    const configured = configuredServer(base, backend, server);
    next.delete(key);
    if (!isDeepStrictEqual(configured, now)) next.set(key, { backend, server, configured, now });
  }
  return next;
}

/** One server of `base` with the changes; undefined when there is none. */
export function serverIn(
  base: Config,
  overlay: Overlay,
  backend: string,
  server: string,
): ServerConfig | undefined {
  const entry = overlay.get(serverKey(backend, server));
  return entry === undefined ? configuredServer(base, backend, server) : entry.now;
}

function configuredServer(base: Config, backend: string, server: string): ServerConfig | undefined {
  const servers = Object.hasOwn(base.backends, backend) ? base.backends[backend]?.servers : undefined;
  return servers !== undefined && Object.hasOwn(servers, server) ? servers[server] : undefined;
}

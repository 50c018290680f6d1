/**
 * From a configuration with names to one with addresses: each address of a name is a server of its own,
 * `name@ip:port`, with the settings of the server that has the name; with `resolve = "first"` the server itself has
 * one of the addresses. An address that the configuration could not name itself is left out.
 */
import { hostPort } from "../../config/address.ts";
import { serverKey } from "../../config/lower.ts";
import { ADDRESS_MARK } from "../../config/name-rules.ts";
import type { Config, ServerConfig } from "../../config/schema.ts";
import { isResolved, parseServerAddress } from "../../config/server-address.ts";
import { judgeServers } from "../../config/servers.ts";
import type { Look, Lookup, Resolved } from "./lookup.ts";

/** A server that is configured by name, and what became of it. */
export type Named = {
  backend: string;
  server: string;
  /** As the configuration has it. */
  addr: string;
  /** As the configuration has it. */
  backup: boolean;
  look: Look;
  /** Names of the servers that it stands for, and their addresses. */
  addresses: ReadonlyMap<string, string>;
  /** Addresses that are left out, and why. */
  leftOut: ReadonlyMap<string, string>;
};

export type Expansion = {
  /** Without names. */
  config: Config;
  /** By `serverKey()` as configured. */
  named: ReadonlyMap<string, Named>;
  /** `serverKey()` of an address → that of the server as configured. */
  origins: ReadonlyMap<string, string>;
};

const UNKNOWN: Look = { state: "failed", cause: "not asked for yet", cut: false };

/** `lookup` tells what is known of a name; `before` is what served: a chosen address stays while the name has it. */
export function expand(
  config: Config,
  lookup: (addr: string) => Lookup | undefined,
  before: Expansion | undefined,
): Expansion {
  const found = namesIn(config);
  if (found.length === 0) return { config, named: new Map(), origins: new Map() };
  const candidates = found.map((it) => {
    const known = lookup(it.settings.addr);
    return { ...it, look: known?.look() ?? UNKNOWN, resolved: known?.addresses() ?? [] };
  });
  const leftOut = judged(config, candidates);
  const named = new Map<string, Named>();
  const origins = new Map<string, string>();
  const servers = new Map<string, Map<string, ServerConfig>>();
  for (const { backend, server, settings, look, resolved } of candidates) {
    const key = serverKey(backend, server);
    const { resolve, ...plain } = settings;
    const out = new Map(resolved.flatMap((it) => leftOutEntry(leftOut, backend, server, it)));
    const able = resolved.filter((it) => !out.has(hostPort(it)));
    const own = new Map<string, ServerConfig>();
    if (resolve === "first") {
      const last = before?.named.get(key)?.addresses.get(server);
      const best = able.filter(({ priority }) => priority === able[0]?.priority);
      const one = best.find((it) => hostPort(it) === last) ?? best[0];
      if (one !== undefined) own.set(server, settingsOf(plain, one, [one]));
    } else {
      for (const it of able) own.set(nameOf(server, it), settingsOf(plain, it, resolved));
    }
    servers.set(key, own);
    const addresses = new Map([...own].map(([name, { addr }]) => [name, addr]));
    named.set(key, {
      backend,
      server,
      addr: settings.addr,
      backup: settings.backup,
      look,
      addresses,
      leftOut: out,
    });
    for (const name of own.keys()) origins.set(serverKey(backend, name), key);
  }
  return { config: withServers(config, servers), named, origins };
}

type Found = { backend: string; server: string; settings: ServerConfig };

function namesIn({ backends }: Config): Found[] {
  return Object.entries(backends).flatMap(([backend, { servers }]) =>
    Object.entries(servers).flatMap(([server, settings]) => {
      const parsed = parseServerAddress(settings.addr);
      return parsed.ok && isResolved(parsed.value) ? [{ backend, server, settings }] : [];
    }),
  );
}

const nameOf = (server: string, address: Resolved): string => `${server}${ADDRESS_MARK}${hostPort(address)}`;

/**
 * A weight of an SRV record takes the place of the configured one, which 0 keeps out all the same. Those of other than
 * the best priority are backups; `all` is in the order of priorities.
 */
function settingsOf(settings: ServerConfig, address: Resolved, all: readonly Resolved[]): ServerConfig {
  const addr = hostPort(address);
  const peers = all.filter(({ priority }) => priority === address.priority);
  const weighed = settings.weight > 0 && peers.some(({ weight }) => (weight ?? 0) > 0);
  const weight = weighed ? Math.max(1, address.weight ?? 0) : settings.weight;
  const backup = settings.backup || address.priority !== all[0]?.priority;
  return { ...settings, addr, weight, backup };
}

/** What the rules say of addresses, by key path: the same as of servers that are written with them. */
function judged(
  config: Config,
  candidates: readonly (Found & { resolved: readonly Resolved[] })[],
): Map<string, string> {
  const none = new Map(candidates.map(({ backend, server }) => [serverKey(backend, server), new Map()]));
  const all = new Map(
    candidates.map(({ backend, server, settings: { resolve: _, ...plain }, resolved }) => {
      const own = resolved.map((it) => [nameOf(server, it), { ...plain, addr: hostPort(it) }] as const);
      return [serverKey(backend, server), new Map(own)] as const;
    }),
  );
  const errors = new Map<string, string>();
  for (const { severity, at, message } of judgeServers(withServers(config, none), withServers(config, all))) {
    const [section, backend, servers, name] = at.map(String);
    if (severity !== "error" || section !== "backends" || servers !== "servers") continue;
    errors.set(serverKey(String(backend), String(name)), message);
  }
  return errors;
}

function leftOutEntry(
  leftOut: ReadonlyMap<string, string>,
  backend: string,
  server: string,
  address: Resolved,
): [string, string][] {
  const why = leftOut.get(serverKey(backend, nameOf(server, address)));
  return why === undefined ? [] : [[hostPort(address), why]];
}

/** With other servers in the place of those that are named by key. */
function withServers(
  config: Config,
  instead: ReadonlyMap<string, ReadonlyMap<string, ServerConfig>>,
): Config {
  const backends = Object.entries(config.backends).map(([backend, it]) => {
    const servers = Object.entries(it.servers).flatMap(([server, settings]): [string, ServerConfig][] => {
      const others = instead.get(serverKey(backend, server));
      return others === undefined ? [[server, settings]] : [...others];
    });
    return [backend, { ...it, servers: Object.fromEntries(servers) }] as const;
  });
  return { ...config, backends: Object.fromEntries(backends) };
}

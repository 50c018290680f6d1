/**
 * Who the client is: networks whose PROXY headers are believed, addresses that connections to servers start from, and
 * the rules of the keys about both.
 */
import { isIP } from "node:net";
import { canonicalHost, isLoopback, notUnicast, type Parsed } from "./address.ts";
import { describeValue, type Finding, type KeyPath, quote } from "./problem.ts";
import { error, type Table, type View, warning } from "./view.ts";

/** Addresses in one `source`; each costs a socket when a configuration is taken. */
const MOST_SOURCES = 64;

const refuse = (message: string): { ok: false; message: string } => ({ ok: false, message });

/** Reads a `source`: "client", or addresses and ranges of them, written out. */
export function expandSource(value: string | readonly string[]): Parsed<"client" | string[]> {
  if (value === "client") return { ok: true, value };
  const items = typeof value === "string" ? [value] : value;
  if (items.length === 0) return refuse("names no address");
  const addresses: string[] = [];
  for (const item of items) {
    const range = expandRange(item);
    if (!range.ok) return range;
    addresses.push(...range.value);
    if (addresses.length > MOST_SOURCES) return refuse(`has more than ${MOST_SOURCES} addresses`);
  }
  const twice = addresses.find((address, i) => addresses.indexOf(address) < i);
  if (twice !== undefined) return refuse(`names ${twice} twice`);
  return { ok: true, value: addresses };
}

function expandRange(text: string): Parsed<string[]> {
  const ends = text.split("-").map((end) => end.trim());
  const [first = "", last = first] = ends;
  if (text === "client") return refuse('names "client" among addresses; it stands alone');
  for (const end of [first, last]) {
    if (!isIP(end) || end.includes("%") || ends.length > 2)
      return refuse(`names ${quote(text)}, which is no address`);
    const { host } = canonicalHost(end);
    const message =
      notUnicast(host) ?? (host === "0.0.0.0" || host === "::" ? "is the wildcard address" : undefined);
    if (message !== undefined) return refuse(`names ${quote(end)}, which ${message}`);
  }
  const [from, to] = [canonicalHost(first), canonicalHost(last)];
  if (from.family !== to.family) return refuse(`names ${quote(text)}, of which the ends are of two families`);
  const [low, high] = [numberOf(from.host), numberOf(to.host)];
  if (high < low) return refuse(`names ${quote(text)}, which ends before it starts`);
  if (high - low >= MOST_SOURCES) return refuse(`has more than ${MOST_SOURCES} addresses`);
  const count = Number(high - low) + 1;
  return {
    ok: true,
    value: Array.from({ length: count }, (_, i) => addressOf(low + BigInt(i), from.family)),
  };
}

/** An address as a number; IPv6 with "::" and with IPv4 at its end has been made canonical before. */
function numberOf(host: string): bigint {
  if (!host.includes(":")) return host.split(".").reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  const [head = "", tail] = host.split("::");
  const words = (part: string): string[] => (part === "" ? [] : part.split(":"));
  const [before, after] = [words(head), words(tail ?? "")];
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => "0");
  return [...before, ...zeros, ...after].reduce((sum, word) => (sum << 16n) | BigInt(`0x${word}`), 0n);
}

function addressOf(number: bigint, family: 4 | 6): string {
  const [count, bits, radix] = family === 4 ? [4, 8n, 10] : [8, 16n, 16];
  const mask = (1n << bits) - 1n;
  const parts = Array.from({ length: count }, (_, i) =>
    ((number >> (bits * BigInt(count - 1 - i))) & mask).toString(radix),
  );
  return canonicalHost(parts.join(family === 4 ? "." : ":")).host;
}

// The timeout has a default, which stands in every configuration that was checked once.
const FRONTEND_KEYS = ["accept_proxy", "proxy_trusted"] as const;

/** Rules about the client's address. */
export function clientAddressRules(view: View): Finding[] {
  if (view.mode === undefined) return [];
  return view.mode === "proxy" ? proxyRules(view) : packetRules(view, view.mode);
}

/** In the packet modes no stream is ended, so nothing can be read from or put before one. */
function packetRules({ frontends, backends }: View, mode: string): Finding[] {
  const findings: Finding[] = [];
  const refuseAll = (at: KeyPath, table: Table, keys: readonly string[], off: unknown, why: string): void => {
    for (const key of keys) {
      if (table[key] === undefined || table[key] === off) continue;
      const message = `is not available in ${mode} mode, ${why}`;
      findings.push(
        error([...at, key], "value", message, {
          found: describeValue(table[key]),
          expected: 'no such key, or mode = "proxy"',
        }),
      );
    }
  };
  const streams = "which forwards packets and ends no stream to read or write a header in";
  const kept =
    mode === "dsr"
      ? "where packets keep the client's address"
      : "whose source addresses are passthrough.nat_addresses";
  for (const { name, table } of frontends)
    refuseAll(["frontends", name], table, FRONTEND_KEYS, false, streams);
  for (const { name, table, servers } of backends.values()) {
    refuseAll(["backends", name], table, ["send_proxy"], "off", streams);
    refuseAll(["backends", name], table, ["source"], undefined, kept);
    for (const server of servers) {
      refuseAll(["backends", name, "servers", server.name], server.table, ["send_proxy"], "off", streams);
    }
  }
  return findings;
}

function proxyRules({ frontends, backends }: View): Finding[] {
  const findings: Finding[] = [];
  for (const { name, table, listen, backend } of frontends) {
    const at = ["frontends", name];
    if (table.accept_proxy !== true) {
      if (table.proxy_trusted !== undefined) {
        const why = "needs accept_proxy = true, without which no header is read";
        findings.push(error([...at, "proxy_trusted"], "key", why));
      }
    } else if (
      table.proxy_trusted === undefined &&
      !(listen.length > 0 && listen.every(({ host }) => isLoopback(host)))
    ) {
      findings.push(
        warning([...at, "accept_proxy"], "key", "believes everybody who connects about who the client is", {
          expected: "the networks of the proxies in front in proxy_trusted",
        }),
      );
    }
    const pool = backend === undefined ? undefined : backends.get(backend);
    if (pool?.table.source !== "client" || table.accept_proxy === true) continue;
    const families = new Set(listen.map(({ family }) => family));
    for (const server of pool.servers) {
      if (!server.addr || families.size === 0 || families.has(server.addr.family)) continue;
      findings.push(
        error(
          ["backends", pool.name, "servers", server.name, "addr"],
          "value",
          `cannot be reached from clients of frontend ${quote(name)}, which source = "client" asks for: they are of the other address family`,
          {
            found: describeValue(server.table.addr),
            expected: `an IPv${server.addr.family === 4 ? 6 : 4} address`,
          },
        ),
      );
    }
  }
  return findings;
}

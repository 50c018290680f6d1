/** Socket addresses as the configuration writes them: `ip:port`, `[ipv6]:port`, `:port`. */
import { isIPv4, isIPv6 } from "node:net";

export interface SocketAddress {
  family: 4 | 6;
  /** The canonical address, IPv6 without brackets. */
  host: string;
  port: number;
}

export type Parsed<T> = { ok: true; value: T } | { ok: false; message: string };

const refuse = (message: string): { ok: false; message: string } => ({ ok: false, message });

/**
 * Reads `ip:port`. `:port` means every IPv4 address of the machine, as 0.3.5 documents it for listeners;
 * for servers pass `wildcard: false`.
 */
export function parseSocketAddress(text: string, options: { wildcard: boolean }): Parsed<SocketAddress> {
  const bracketed = /^\[([^\]]*)\](?::(.*))?$/s.exec(text);
  const colon = text.lastIndexOf(":");
  let host: string;
  let portText: string | undefined;
  if (bracketed) {
    host = bracketed[1] as string;
    portText = bracketed[2];
    if (host.includes("%")) return refuse("has a zone, which is not supported");
    if (!isIPv6(host)) return refuse("has no IPv6 address between the brackets");
  } else if (isIPv6(text)) {
    return refuse("is IPv6 without brackets; write [address]:port");
  } else if (colon < 0) {
    host = text;
    portText = undefined;
  } else {
    host = text.slice(0, colon);
    portText = text.slice(colon + 1);
  }
  if (portText === undefined || portText === "") return refuse("has no port");
  if (host === "" && !bracketed) {
    if (!options.wildcard) return refuse("has no address before the port");
    host = "0.0.0.0";
  } else if (!bracketed && !isIPv4(host)) {
    if (isIPv6(host)) return refuse("is IPv6 without brackets; write [address]:port");
    if (/[a-z]/i.test(host)) return refuse("has a name, and names are not resolved; write the IP address");
    return refuse("is not an IP address and a port");
  }
  const port = parsePort(portText);
  if (port === undefined) return refuse("has a port that is not a number from 0 to 65535");
  const { family, host: canonical } = canonicalHost(host);
  return { ok: true, value: { family, host: canonical, port } };
}

/** The one way of writing an address. An IPv4 address written as IPv6 (::ffff:a.b.c.d) is the IPv4 address. */
export function canonicalHost(host: string): { family: 4 | 6; host: string } {
  if (isIPv4(host)) return { family: 4, host };
  const canonical = new URL(`http://[${host}]/`).hostname.slice(1, -1);
  const mapped = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(canonical);
  if (!mapped) return { family: 6, host: canonical };
  const [high = 0, low = 0] = mapped.slice(1).map((word) => Number.parseInt(word, 16));
  return { family: 4, host: [high >> 8, high & 255, low >> 8, low & 255].join(".") };
}

/** What an address is for that neither listens nor serves; undefined for any other. */
export function notUnicast(host: string): string | undefined {
  if (host === "255.255.255.255") return "is the broadcast address";
  const first = isIPv4(host) ? Number(host.split(".")[0]) : undefined;
  if (first === undefined ? host.startsWith("ff") && /^ff[0-9a-f]{2}:/.test(host) : first >> 4 === 14) {
    return "is a multicast address";
  }
  return undefined;
}

/** A decimal port number, or undefined. */
export function parsePort(text: string): number | undefined {
  if (!/^\d{1,5}$/.test(text)) return undefined;
  const port = Number(text);
  return port <= 65535 ? port : undefined;
}

/** `host:port`, IPv6 in brackets, also for a host that is a name. The one place that prints it. */
export function hostPort({ host, port }: { host: string; port: number | string }): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Whether the host stands for every address of its family. */
export function isWildcard(address: SocketAddress): boolean {
  return address.host === "0.0.0.0" || address.host === "::";
}

/** Whether only this machine can reach the host. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIPv4(host) && host.startsWith("127."));
}

/** Whether the host means another machine on every link: IPv6, fe80::/10. */
export function isLinkLocal(host: string): boolean {
  return /^fe[89ab][0-9a-f]:/i.test(host);
}

/** The inclusive range of a `"from-to"` text. */
export function parsePortRange(text: string): Parsed<{ from: number; to: number }> {
  const match = /^(\d{1,5})\s*-\s*(\d{1,5})$/.exec(text);
  const from = match ? parsePort(match[1] as string) : undefined;
  const to = match ? parsePort(match[2] as string) : undefined;
  if (from === undefined || to === undefined) return refuse("is not a range of ports");
  if (from < 1024) return refuse("starts below 1024, among the ports of services");
  if (to < from) return refuse("ends before it starts");
  return { ok: true, value: { from, to } };
}

/** What this machine itself says of names: its DNS servers in /etc/resolv.conf, and /etc/hosts. */
import { readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { canonicalHost } from "../../config/address.ts";
import type { DnsServer } from "./exchange.ts";

/** Where the C library looks, too. */
const LOCAL_SERVER: DnsServer = { host: "127.0.0.1", port: 53 };
/** Of one file. */
const MOST_SERVERS = 8;
/** How long a file that was read counts. */
const FRESH_MS = 2000;

/** Of `nameserver` lines; search domains and options are not used. */
export function parseResolvConf(text: string): DnsServer[] {
  const servers = text.split("\n").flatMap((line) => {
    const [key, host = ""] = line.trim().split(/\s+/);
    return key === "nameserver" && isIP(host) !== 0 ? [{ host, port: 53 }] : [];
  });
  return servers.length === 0 ? [LOCAL_SERVER] : servers.slice(0, MOST_SERVERS);
}

/** Addresses by name in lower case. */
export function parseHosts(text: string): Map<string, string[]> {
  const hosts = new Map<string, string[]>();
  for (const line of text.split("\n")) {
    const [address = "", ...names] = (line.split("#")[0] as string).trim().split(/\s+/);
    if (isIP(address) === 0 || address.includes("%")) continue;
    for (const name of names.map((it) => it.toLowerCase().replace(/\.$/, ""))) {
      const known = hosts.get(name) ?? [];
      const { host } = canonicalHost(address);
      if (!known.includes(host)) hosts.set(name, [...known, host]);
    }
  }
  return hosts;
}

/** Reads both files, at most once in a while. */
export class System {
  readonly #servers: () => Promise<DnsServer[]>;
  readonly #hosts: () => Promise<Map<string, string[]>>;

  constructor(files: { resolvConf?: string; hosts?: string } = {}) {
    this.#servers = remembered(files.resolvConf ?? "/etc/resolv.conf", parseResolvConf);
    this.#hosts = remembered(files.hosts ?? "/etc/hosts", parseHosts);
  }

  async servers(): Promise<DnsServer[]> {
    return await this.#servers();
  }

  /** The addresses that need no DNS server: of /etc/hosts, and of localhost (RFC 6761). */
  async addresses(name: string): Promise<string[]> {
    const found = (await this.#hosts()).get(name);
    if (found !== undefined) return found;
    return name === "localhost" || name.endsWith(".localhost") ? ["127.0.0.1", "::1"] : [];
  }
}

/** What `parse` makes of a file; of nothing when it cannot be read. */
function remembered<T>(file: string, parse: (text: string) => T): () => Promise<T> {
  let value: Promise<T> | undefined;
  let at = 0;
  return () => {
    if (value === undefined || performance.now() - at > FRESH_MS) {
      at = performance.now();
      value = readFile(file, "utf8").then(parse, () => parse(""));
    }
    return value;
  };
}

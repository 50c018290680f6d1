/** Links, addresses, routes and neighbours, as `ip -j` tells them; each is asked for once. */
import { NotChecked } from "./finding.ts";
import type { Host } from "./host.ts";

export interface Link {
  ifname: string;
  mtu: number;
  flags: string[];
  linkinfo?: { info_kind?: string };
  xdp?: { prog?: { id?: number; name?: string } };
  gso_max_size?: number;
  gso_ipv4_max_size?: number;
}

export interface HeldAddress {
  device: string;
  address: string;
  prefix: number;
}

export interface Route {
  /** Left out where it is an ordinary one. */
  type?: string;
  dst?: string;
  dev?: string;
  gateway?: string;
  /** The smaller is preferred. */
  metric?: number;
  metrics?: { mtu?: number; advmss?: number }[];
}

export interface Neighbour {
  dst: string;
  dev: string;
  lladdr?: string;
  state?: string[];
}

/** The network of a host at one moment. */
export class Network {
  readonly #host: Host;
  readonly #answers = new Map<string, Promise<unknown[]>>();

  constructor(host: Host) {
    this.#host = host;
  }

  links(): Promise<Link[]> {
    return this.#ask<Link>("-d", "link", "show");
  }

  async addresses(): Promise<HeldAddress[]> {
    type Shown = { ifname: string; addr_info?: { local: string; prefixlen: number }[] };
    const shown = await this.#ask<Shown>("address", "show");
    return shown.flatMap(({ ifname, addr_info = [] }) =>
      addr_info.map(({ local, prefixlen }) => ({ device: ifname, address: local, prefix: prefixlen })),
    );
  }

  neighbours(): Promise<Neighbour[]> {
    return this.#ask<Neighbour>("neigh", "show");
  }

  /** The route that a packet to `address` takes; undefined where there is none. */
  async route(address: string): Promise<Route | undefined> {
    return (await this.#ask<Route>("route", "get", address))[0];
  }

  /** The route of the packet that `ip route get` takes these words for; undefined where there is none. */
  async routeOf(packet: readonly string[]): Promise<Route | undefined> {
    return (await this.#ask<Route>("route", "get", ...packet))[0];
  }

  /** Default routes of this family; one with several next hops is several. */
  async defaults(family: 4 | 6): Promise<Route[]> {
    const routes = await this.#ask<Route & { nexthops?: Route[] }>(`-${family}`, "route", "show", "default");
    return routes.flatMap(
      ({ nexthops, ...route }) => nexthops?.map((hop) => ({ ...route, ...hop })) ?? [route],
    );
  }

  /** Devices by which a default route of this family leads. */
  async uplinks(family: 4 | 6): Promise<string[]> {
    return (await this.defaults(family)).flatMap(({ dev }) => dev ?? []);
  }

  #ask<Row>(...words: string[]): Promise<Row[]> {
    const key = words.join(" ");
    const known = this.#answers.get(key) ?? this.#run(words);
    this.#answers.set(key, known);
    return known as Promise<Row[]>;
  }

  async #run(words: string[]): Promise<unknown[]> {
    const text = await this.#host.run(["ip", "-j", ...words]);
    if (text === undefined) {
      // Where there is no route, or no IPv6, it fails, too.
      if (words.includes("get") || words.includes("-6")) return [];
      throw new NotChecked(`an ip command that works here (ip -j ${words.join(" ")} failed)`);
    }
    if (text.trim() === "") return [];
    try {
      return JSON.parse(text) as unknown[];
    } catch (cause) {
      throw new NotChecked("an ip command that prints JSON (iproute2 4.18)", cause);
    }
  }
}

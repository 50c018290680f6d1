/**
 * Three network namespaces in a row, client – balancer – server, joined by veth pairs. Names are unique, so
 * several labs can stand at once; ports inside are private and may be fixed. Needs root.
 */
import { randomBytes } from "node:crypto";
import { finish, succeed } from "./processes.ts";

export type Place = "client" | "balancer" | "server";

export interface LabOptions {
  /** False: segmentation and checksums are done in software on every link. */
  offloads?: boolean;
  /** `net.ipv4.ip_local_port_range` in the balancer's namespace. */
  balancerPorts?: string;
  /** `net.ipv4.tcp_tw_reuse` in every namespace. */
  reuseTimeWait?: boolean;
}

/** Addresses inside every lab; clients reach servers through the balancer's routing. */
export const address = {
  client: "10.77.1.2",
  /** Where frontends listen. */
  front: "10.77.1.1",
  /** The balancer, towards the servers. */
  back: "10.77.2.1",
  server: "10.77.2.2",
  client6: "fd77:1::2",
  front6: "fd77:1::1",
  back6: "fd77:2::1",
  server6: "fd77:2::2",
} as const;

const PLACES: readonly Place[] = ["client", "balancer", "server"];

/** A standing lab. `await using` removes it. */
export class Lab implements AsyncDisposable {
  readonly #names: Readonly<Record<Place, string>>;

  private constructor(names: Record<Place, string>) {
    this.#names = names;
  }

  static async create(options: LabOptions = {}): Promise<Lab> {
    const id = randomBytes(3).toString("hex");
    const lab = new Lab({ client: `cvy-${id}-c`, balancer: `cvy-${id}-b`, server: `cvy-${id}-s` });
    try {
      await lab.#build(options);
    } catch (error) {
      await lab.remove();
      throw error;
    }
    return lab;
  }

  /** The words to put before a command so that it runs there. */
  at(place: Place, ...command: string[]): string[] {
    return ["ip", "netns", "exec", this.#names[place], ...command];
  }

  /** Runs a shell line there that must succeed. */
  async sh(place: Place, line: string): Promise<string> {
    return succeed(this.at(place, "sh", "-ec", line));
  }

  async remove(): Promise<void> {
    for (const place of PLACES) await finish(["ip", "netns", "del", this.#names[place]]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }

  async #build(options: LabOptions): Promise<void> {
    const { client, balancer, server } = this.#names;
    // Made in namespaces from the start: the host never sees a link of ours.
    const lines = [
      ...PLACES.map((place) => `ip netns add ${this.#names[place]}`),
      `ip -n ${client} link add front type veth peer name front netns ${balancer}`,
      `ip -n ${server} link add back type veth peer name back netns ${balancer}`,
      ...PLACES.map((place) => `ip -n ${this.#names[place]} link set lo up`),
      ...addressed(client, "front", address.client, address.client6),
      ...addressed(balancer, "front", address.front, address.front6),
      ...addressed(balancer, "back", address.back, address.back6),
      ...addressed(server, "back", address.server, address.server6),
      `ip -n ${client} route add default via ${address.front}`,
      `ip -n ${server} route add default via ${address.back}`,
      `ip -n ${client} -6 route add default via ${address.front6}`,
      `ip -n ${server} -6 route add default via ${address.back6}`,
    ];
    await succeed(["sh", "-ec", lines.join("\n")]);
    const ports = "1024 65535";
    const common = `sysctl -qw net.ipv4.tcp_tw_reuse=${options.reuseTimeWait === false ? 0 : 1} net.core.somaxconn=16384 net.ipv4.tcp_max_syn_backlog=16384`;
    await this.sh("client", `${common} net.ipv4.ip_local_port_range="${ports}"`);
    await this.sh("server", `${common} net.ipv4.ip_local_port_range="${ports}"`);
    await this.sh(
      "balancer",
      `${common} net.ipv4.ip_local_port_range="${options.balancerPorts ?? ports}" net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`,
    );
    if (options.offloads === false) {
      const off = (device: string) => `ethtool -K ${device} tx off rx off tso off gso off gro off >/dev/null`;
      await this.sh("client", off("front"));
      await this.sh("balancer", `${off("front")}; ${off("back")}`);
      await this.sh("server", off("back"));
    }
  }
}

function addressed(namespace: string, device: string, v4: string, v6: string): string[] {
  return [
    `ip -n ${namespace} address add ${v4}/24 dev ${device}`,
    // nodad: an address under duplicate detection cannot be bound for a second.
    `ip -n ${namespace} address add ${v6}/64 dev ${device} nodad`,
    `ip -n ${namespace} link set ${device} up`,
  ];
}

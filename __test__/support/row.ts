/** Three network namespaces in a row, client – balancer – server, joined by veth pairs. Needs root. */
import { Lab } from "./lab.ts";

export type Place = "client" | "balancer" | "server";

export interface RowOptions {
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

/** A standing row. `await using` removes it. */
export class Row extends Lab<Place> {
  static async create(options: RowOptions = {}): Promise<Row> {
    const row = new Row("cvy", PLACES);
    await row.build([...row.#links(), ...row.#settings(options)]);
    return row;
  }

  #links(): string[] {
    const [client = "", balancer = "", server = ""] = this.namespaces();
    // Made in namespaces from the start: the host never sees a link of ours.
    return [
      `ip -n ${client} link add front type veth peer name front netns ${balancer}`,
      `ip -n ${server} link add back type veth peer name back netns ${balancer}`,
      ...addressed(client, "front", address.client, address.client6),
      ...addressed(balancer, "front", address.front, address.front6),
      ...addressed(balancer, "back", address.back, address.back6),
      ...addressed(server, "back", address.server, address.server6),
      `ip -n ${client} route add default via ${address.front}`,
      `ip -n ${server} route add default via ${address.back}`,
      `ip -n ${client} -6 route add default via ${address.front6}`,
      `ip -n ${server} -6 route add default via ${address.back6}`,
    ];
  }

  #settings(options: RowOptions): string[] {
    const anyPort = "1024 65535";
    const sysctl = (place: Place, ports: string, ...more: string[]) =>
      this.at(
        place,
        ...["sysctl", "-qw", `net.ipv4.tcp_tw_reuse=${options.reuseTimeWait === false ? 0 : 1}`],
        ...["net.core.somaxconn=16384", "net.ipv4.tcp_max_syn_backlog=16384"],
        `net.ipv4.ip_local_port_range="${ports}"`,
        ...more,
      ).join(" ");
    const off = (place: Place, device: string) =>
      `${this.at(place, "ethtool", "-K", device).join(" ")} tx off rx off tso off gso off gro off >/dev/null`;
    return [
      sysctl("client", anyPort),
      sysctl("server", anyPort),
      sysctl(
        "balancer",
        options.balancerPorts ?? anyPort,
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
      ),
      ...(options.offloads === false
        ? [off("client", "front"), off("balancer", "front"), off("balancer", "back"), off("server", "back")]
        : []),
    ];
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

/**
 * The network of the packet modes: client – router – balancer – three servers, each in a namespace of its own.
 * A switch in the middle joins router, balancer and servers ("one-arm"); with "two-arm" the servers stand on a
 * switch of their own behind the balancer, which the router reaches too, so that direct server return has its
 * way back. Needs root.
 */
import { Lab } from "../../support/lab.ts";
import { otherEnd } from "./other-end.ts";

export type Place = "client" | "router" | "balancer" | "server1" | "server2" | "server3";
export type Arms = "one-arm" | "two-arm";
export type Family = "v4" | "v6";

export const FAMILIES: readonly Family[] = ["v4", "v6"];
export const SERVERS = ["server1", "server2", "server3"] as const;
const PLACES: readonly Place[] = ["client", "router", "balancer", ...SERVERS];

export interface LabOptions {
  arms?: Arms;
}

/** A device in a namespace. */
export interface Device {
  place: Place;
  name: string;
}

interface Wire extends Device {
  segment: "far" | "front" | "back";
  host: number;
}

const PREFIX = { far: "10.78.1.", front: "10.78.2.", back: "10.78.3." } as const;
const PREFIX6 = { far: "fd78:1::", front: "fd78:2::", back: "fd78:3::" } as const;
const ROUTER = 254;

/** A standing lab. `await using` removes it. */
export class PacketLab extends Lab<Place | "switch"> {
  readonly arms: Arms;

  private constructor(arms: Arms) {
    super("cvp", [...PLACES, "switch"]);
    this.arms = arms;
  }

  static async create(options: LabOptions = {}): Promise<PacketLab> {
    const lab = new PacketLab(options.arms ?? "one-arm");
    await lab.build(lab.#lines());
    return lab;
  }

  /**
   * Where clients connect: an address of the balancer beside its first. With method "l2" the servers hold it too,
   * and would not answer neighbour requests that came from it.
   */
  vip(family: Family = "v4"): string {
    return family === "v4" ? `${PREFIX.front}100` : `${PREFIX6.front}100`;
  }

  /** The balancer's addresses beside the VIP, which connections of its own come from. */
  balancer(family: Family): string[] {
    const prefix = family === "v4" ? PREFIX : PREFIX6;
    const segments = this.arms === "one-arm" ? (["front"] as const) : (["front", "back"] as const);
    return segments.map((segment) => `${prefix[segment]}1`);
  }

  /** A server's address towards the balancer. */
  server(place: (typeof SERVERS)[number], family: Family = "v4"): string {
    const segment = this.#serverSegment();
    const host = SERVERS.indexOf(place) + 11;
    return family === "v4" ? `${PREFIX[segment]}${host}` : `${PREFIX6[segment]}${host}`;
  }

  client(family: Family = "v4"): string {
    return family === "v4" ? `${PREFIX.far}2` : `${PREFIX6.far}2`;
  }

  /** `address:port`, with brackets where the family wants them. */
  static socket(address: string, port: number): string {
    return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
  }

  /** The balancer's devices, the client's side first. */
  balancerDevices(): string[] {
    return this.arms === "one-arm" ? ["front"] : ["front", "back"];
  }

  /** The device by which a place other than the router and the balancer is reached. */
  device(place: "client" | (typeof SERVERS)[number]): string {
    return place === "client" ? "far" : this.#serverSegment();
  }

  /** Changes offloads of a place's devices, as `ethtool -K` takes them: "tx off", "gro on". */
  async offload(place: Place, change: string): Promise<void> {
    for (const wire of this.#wires().filter((w) => w.place === place)) {
      await this.sh(place, `ethtool -K ${wire.name} ${change} >/dev/null`);
    }
  }

  /** Segmentation and checksums in software on every device of the lab. */
  async offloadsOff(): Promise<void> {
    for (const place of PLACES) await this.offload(place, "tx off rx off tso off gso off gro off");
  }

  /**
   * Has one processor take in what arrives anywhere, while `work` is done. Otherwise a veth gives packets to the processor
   * that sends them, and where the sender, a worker or the kernel's own, moves to another one they overtake each other.
   */
  async onOneProcessor<T>(work: () => Promise<T>): Promise<T> {
    const steer = async (mask: number) => {
      const line = `for file in /sys/class/net/*/queues/rx-*/rps_cpus; do echo ${mask} > "$file"; done`;
      for (const place of [...PLACES, "switch"] as const) await this.sh(place, line);
    };
    await steer(1);
    try {
      return await work();
    } finally {
      await steer(0);
    }
  }

  /** The largest packet the router passes on in either direction. */
  async pathMtu(bytes: number): Promise<void> {
    const lines = this.#wires()
      .filter((wire) => wire.place === "router")
      .flatMap(({ segment, name }) => [
        `ip route replace ${PREFIX[segment]}0/24 dev ${name} mtu lock ${bytes}`,
        // The kernel's own route has this metric; without it a second one would stand beside it in vain.
        `ip -6 route replace ${PREFIX6[segment]}/64 dev ${name} metric 256 mtu lock ${bytes}`,
      ]);
    await this.sh("router", lines.join("\n"));
  }

  #serverSegment(): "front" | "back" {
    return this.arms === "one-arm" ? "front" : "back";
  }

  #wires(): Wire[] {
    const servers = SERVERS.map((place, i) => ({
      place,
      name: this.#serverSegment(),
      segment: this.#serverSegment(),
      host: 11 + i,
    }));
    const back = [
      { place: "balancer", name: "back", segment: "back", host: 1 },
      { place: "router", name: "back", segment: "back", host: ROUTER },
    ] as const;
    return [
      { place: "client", name: "far", segment: "far", host: 2 },
      { place: "router", name: "far", segment: "far", host: ROUTER },
      { place: "router", name: "front", segment: "front", host: ROUTER },
      { place: "balancer", name: "front", segment: "front", host: 1 },
      ...(this.arms === "two-arm" ? back : []),
      ...servers,
    ];
  }

  #lines(): string[] {
    // Made in namespaces from the start: the host never sees a link of ours.
    const middle = this.namespace("switch");
    const lines = [
      // Where bridges hand frames to the firewall, the switch would drop the malformed ones.
      `ip netns exec ${middle} sysctl -qw net.bridge.bridge-nf-call-iptables=0 2>/dev/null || true`,
    ];
    for (const segment of ["far", "front", "back"] as const) {
      const wires = this.#wires().filter((w) => w.segment === segment);
      if (wires.length === 0) continue;
      lines.push(`ip -n ${middle} link add ${segment} type bridge mcast_snooping 0`);
      lines.push(`ip -n ${middle} link set ${segment} up`);
      wires.forEach(({ place, name, host }, i) => {
        const namespace = this.namespace(place);
        const port = `${segment}${i}`;
        lines.push(
          `ip -n ${middle} link add ${port} type veth peer name ${name} netns ${namespace}`,
          `ip -n ${middle} link set ${port} master ${segment} up`,
          ...(place === "balancer" ? otherEnd(middle, port) : []),
          `ip -n ${namespace} address add ${PREFIX[segment]}${host}/24 dev ${name}`,
          `ip -n ${namespace} address add ${PREFIX6[segment]}${host}/64 dev ${name} nodad`,
          `ip -n ${namespace} link set ${name} up`,
        );
      });
    }
    lines.push(
      `ip -n ${this.namespace("balancer")} address add ${this.vip("v4")}/32 dev front`,
      // A source address that servers hold themselves would get no answer: health checks must not use it.
      `ip -n ${this.namespace("balancer")} address add ${this.vip("v6")}/128 dev front nodad preferred_lft 0`,
    );
    const router = (place: Place, segment: "far" | "front" | "back") => [
      `ip -n ${this.namespace(place)} route add default via ${PREFIX[segment]}${ROUTER}`,
      `ip -n ${this.namespace(place)} -6 route add default via ${PREFIX6[segment]}${ROUTER}`,
    ];
    lines.push(...router("client", "far"), ...router("balancer", "front"));
    for (const place of SERVERS) {
      lines.push(...router(place, this.#serverSegment()));
      if (this.arms === "two-arm") {
        const namespace = this.namespace(place);
        lines.push(`ip -n ${namespace} route add ${PREFIX.front}0/24 via ${PREFIX.back}1`);
        lines.push(`ip -n ${namespace} -6 route add ${PREFIX6.front}/64 via ${PREFIX6.back}1`);
      }
    }
    const sysctl = (place: Place, ...settings: string[]) =>
      lines.push(`ip netns exec ${this.namespace(place)} sysctl -qw ${settings.join(" ")}`);
    // A receiver gives a datagram up when more than 64 fragments of its sender come between its own. On a machine with
    // more to do than processors one worker's fragments fall that far behind another's.
    for (const place of ["client", ...SERVERS] as const) sysctl(place, "net.ipv4.ipfrag_max_dist=0");
    sysctl("router", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.icmp_ratelimit=0");
    sysctl("router", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0");
    sysctl(
      "client",
      "net.ipv4.tcp_tw_reuse=1",
      'net.ipv4.ip_local_port_range="1024 65535"',
      // Those that tests ask for by number.
      "net.ipv4.ip_local_reserved_ports=3500-3699,45000-45999",
    );
    return lines;
  }
}

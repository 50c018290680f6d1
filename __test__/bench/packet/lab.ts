/**
 * The network of the packet bench: client – balancer – server, three namespaces and two wires without a switch, so
 * that little else than the balancer costs time. Bulk transfers cross both wires. Floods of small packets come and
 * go by the client's wire, as the one-call forwarder knows it; their server is a link-layer address that nobody
 * has: what arrives is counted by the interface and dropped by a rule at its ingress, before anything of the kernel
 * that could fill up. A third wire lets servers answer clients past the balancer, as DSR wants it.
 */
import { otherEnd } from "../../net/lab/other-end.ts";
import { Lab } from "../../support/lab.ts";
import { finish, succeed, until } from "../../support/processes.ts";
import { goOn, guard } from "../interruption.ts";

export type Place = "client" | "balancer" | "server";

const PLACES: readonly Place[] = ["client", "balancer", "server"];

/** Addresses and ports, private to every lab. */
export const net = {
  client: "10.79.1.2",
  /** Where frontends listen: the balancer's own address. */
  vip: "10.79.1.1",
  /** The server of floods: reached by `sinkMac`, held by nobody. */
  sink: "10.79.1.3",
  sinkMac: "02:00:00:00:00:03",
  back: "10.79.2.1",
  /** The server of bulk transfers and of new connections. */
  server: "10.79.2.2",
  /** The server and the client on the wire past the balancer. */
  aroundServer: "10.79.3.1",
  aroundClient: "10.79.3.2",
  udpPort: 9009,
  tcpPort: 8080,
} as const;

/** A standing lab. `await using` removes it. */
export class WireLab extends Lab<Place> {
  readonly #macs = new Map<string, string>();
  readonly #guard = guard(this.namespaces());
  readonly #polled = new Set<string>();

  static async create(): Promise<WireLab> {
    goOn();
    const lab = new WireLab("cvw", PLACES);
    await lab.build(lab.#lines());
    return lab;
  }

  /** Asked once: a flood begins with it. */
  override async mac(place: Place, device: string): Promise<string> {
    const key = `${place} ${device}`;
    const known = this.#macs.get(key) ?? (await super.mac(place, device));
    this.#macs.set(key, known);
    return known;
  }

  /** Segmentation and checksums by the "hardware" of every wire, or in software. */
  async offloads(state: "on" | "off"): Promise<void> {
    const features = ["tx", "rx", "tso", "gso", "tx-udp-segmentation"].map((f) => `${f} ${state}`).join(" ");
    const set = (device: string) => `ethtool -K ${device} ${features} gro off >/dev/null`;
    await this.sh("client", set("front"));
    await this.sh("balancer", `${set("front")}; ${set("back")}`);
    await this.sh("server", set("back"));
  }

  /**
   * Frames of the generator are taken by a polling thread of the balancer's wire, on this core, as a network card's
   * are: with GRO on a veth polls, and takes frames that were sent by XDP. So does the client's end, for what comes back.
   */
  async takeFloods(core: number): Promise<void> {
    for (const place of ["client", "balancer"] as const)
      await this.sh(place, "ethtool -K front gro on >/dev/null");
    await this.poll("front", core);
  }

  /** Floods end at the client's interface, after it has counted them. */
  async dropFloods(to: string = net.sink): Promise<void> {
    await this.sh("client", ingress("sink", `ip daddr ${to} drop`));
  }

  /** What XDP in the balancer wants of the other ends of its wires; checksums in software stay so. */
  async prepareXdp(): Promise<void> {
    const ends = [
      ["client", "front"],
      ["server", "back"],
    ] as const;
    const lines = ends.flatMap(([place, device]) => otherEnd(this.namespace(place), device, true));
    await succeed(["sh", "-ec", lines.join("\n")]);
  }

  /** A thread on this core polls a wire of the balancer, where it is polled at all: see {@link takeFloods}. */
  async poll(device: "front" | "back", core: number): Promise<void> {
    const threads = async () =>
      new Set((await finish(["pgrep", `^napi/${device}-`])).stdout.split("\n").filter(Boolean));
    const others = this.#polled.has(device) ? new Set<string>() : await threads();
    this.#polled.add(device);
    await this.sh("balancer", `echo 1 > /sys/class/net/${device}/threaded`);
    for (const thread of await threads()) {
      if (others.has(thread)) continue;
      // As soft interrupts do, it comes before whoever else runs there: its queue is full after 256 packets.
      await succeed(["sh", "-ec", `taskset -pc ${core} ${thread} >/dev/null; chrt --fifo -p 10 ${thread}`]);
    }
  }

  /** Waits for a packet as it has to arrive; looked at apart from measurements, as looking costs. */
  async proveArrival(send: () => Promise<unknown>, detail: () => string): Promise<void> {
    const right = `ether daddr ${net.sinkMac} ip daddr ${net.sink} udp dport ${net.udpPort} counter`;
    await this.sh("client", ingress("proof", right));
    await send();
    await until(
      async () => /packets [1-9]/.test(await this.sh("client", "nft list table netdev proof")),
      `packet for ${net.sink}`,
      5_000,
      detail,
    );
    await this.sh("client", "nft delete table netdev proof");
  }

  /** DSR's way back: the server answers past the balancer, in the name of the VIP. */
  async answerAround(): Promise<void> {
    await this.#wireAround();
    await this.sh("server", `ip route add ${net.client}/32 via ${net.aroundClient} dev around`);
    const rule = `oifname "around" ip saddr ${net.server} ip saddr set ${net.vip}`;
    await this.sh(
      "server",
      `nft 'table inet dsr { chain out { type filter hook postrouting priority 0; ${rule}; }; }'`,
    );
  }

  /** Client and server talk past the balancer, both ways. */
  async connectAround(): Promise<void> {
    await this.#wireAround();
    await this.sh("client", `ip route add ${net.server}/32 via ${net.aroundServer} dev around`);
  }

  async #wireAround(): Promise<void> {
    const [client, server] = [this.namespace("client"), this.namespace("server")];
    const lines = [
      `ip -n ${client} link add around type veth peer name around netns ${server}`,
      `ip -n ${client} address add ${net.aroundClient}/24 dev around`,
      `ip -n ${server} address add ${net.aroundServer}/24 dev around`,
      `ip -n ${client} link set around up`,
      `ip -n ${server} link set around up`,
    ];
    await succeed(["sh", "-ec", lines.join("\n")]);
  }

  /** Which core the kernel's own forwarding runs on; by default the one that sent the packet. */
  async kernelForwardsOn(core: number): Promise<void> {
    const mask = (1 << core).toString(16);
    await this.sh(
      "balancer",
      `for f in /sys/class/net/*/queues/rx-*/rps_cpus; do case $f in */lo/*) ;; *) echo ${mask} > $f;; esac; done`,
    );
  }

  override async remove(): Promise<void> {
    await super.remove();
    this.#guard[Symbol.dispose]();
  }

  #lines(): string[] {
    const [client = "", balancer = "", server = ""] = this.namespaces();
    const sysctl = (place: Place, ...settings: string[]) =>
      this.at(place, "sysctl", "-qw", ...settings).join(" ");
    const ports = 'net.ipv4.ip_local_port_range="1024 65535"';
    // Made in namespaces from the start: the host never sees a link of ours.
    return [
      `ip -n ${client} link add front type veth peer name front netns ${balancer}`,
      `ip -n ${server} link add back type veth peer name back netns ${balancer}`,
      `ip -n ${client} address add ${net.client}/24 dev front`,
      `ip -n ${balancer} address add ${net.vip}/24 dev front`,
      `ip -n ${balancer} address add ${net.back}/24 dev back`,
      `ip -n ${server} address add ${net.server}/24 dev back`,
      `ip -n ${client} link set front up`,
      `ip -n ${balancer} link set front up`,
      `ip -n ${balancer} link set back up`,
      `ip -n ${server} link set back up`,
      `ip -n ${client} route add default via ${net.vip}`,
      `ip -n ${server} route add default via ${net.back}`,
      `ip -n ${balancer} neigh replace ${net.sink} lladdr ${net.sinkMac} dev front nud permanent`,
      sysctl("client", "net.ipv4.tcp_tw_reuse=1", ports),
      sysctl("server", ports),
      sysctl("balancer", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0"),
      sysctl("balancer", "net.ipv4.conf.front.send_redirects=0"),
    ];
  }
}

function ingress(table: string, rule: string): string {
  return `nft 'table netdev ${table} { chain in { type filter hook ingress device front priority 0; ${rule}; }; }'`;
}

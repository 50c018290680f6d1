/** Everything of a namespace that a balancer may touch, as text: to compare before and after. */
import type { PacketLab, Place } from "./lab.ts";

/** What differs by itself between two looks: counters, timers, who was spoken to. */
const VOLATILE = [
  /^net\.(ipv[46]\.neigh|ipv[46]\.route|netfilter\.nf_conntrack_count)/,
  /^net\.ipv4\.(tcp_fastopen_key|tcp_mem|udp_mem)/,
  /^net\.ipv6\.conf\.[^.]+\.stable_secret/,
];

/** Links, addresses, routes, rules, tc, packet sockets, nft, offloads and sysctls of a place, one fact a line. */
export async function hostState(lab: PacketLab, place: Place): Promise<string> {
  const show = (line: string) => lab.sh(place, line);
  const parts = [
    await show("ip -d link show"),
    (await show("ip address show")).replace(/(valid|preferred)_lft \d+sec/g, "$1_lft …"),
    await show("ip route show table all; ip -6 route show table all; ip rule; ip -6 rule"),
    await show(
      "for d in $(ls /sys/class/net); do tc qdisc show dev $d; for p in ingress egress; do tc filter show dev $d $p 2>/dev/null || true; done; done",
    ),
    await show("wc -l < /proc/net/packet"),
    await show("nft -s list ruleset"),
    await show("for d in $(ls /sys/class/net); do ethtool -k $d 2>/dev/null | sort; done"),
    (await show("sysctl -a 2>/dev/null | grep ^net"))
      .split("\n")
      .filter((line) => !VOLATILE.some((pattern) => pattern.test(line)))
      .join("\n"),
  ];
  return parts.join("\n");
}

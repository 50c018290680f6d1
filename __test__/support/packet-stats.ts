/** Statistics as the packet modes have them, for tests that need no packets. */
import type { PacketStats } from "../../ts/control/stats.ts";

export function packetStats(count = 1): PacketStats {
  return {
    engine: "tc",
    engines_refused: [{ engine: "xdp", kind: "unsupported", cause: "no native XDP", remedy: "" }],
    worker_panics: 2,
    guard: "tcx",
    interfaces: ["eth0"],
    flows: { current: 4, capacity: 100 },
    packets: {
      forwarded: 50 * count,
      replied: { rst: count },
      answered: { ports_exhausted: count },
      passed: { not_ours: 3 * count },
      dropped: { fragment_refused: 2 * count },
      noted: { flow_begun: 4 * count },
      nat_port_probes: { "1": 4 * count, "25+": count },
      guard: { to_vip: count, from_server: 0, icmp_errors: 0 },
    },
  };
}

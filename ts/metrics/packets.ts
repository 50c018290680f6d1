/** Metrics of the packet modes: engine, flow table, and what became of packets. A super-frame counts once. */
import type { PacketStats, Stats } from "../control/stats.ts";
import { by, counter, type Family, gauge, one } from "./family.ts";

/** At zero from the start, so that the first increase of the last ones is one. */
const NO_PROBES = { "1": 0, "2-3": 0, "4-7": 0, "8-15": 0, "16-24": 0, "25+": 0 };

export function packetFamilies(stats: Stats): Family[] {
  if (!isPacketMode(stats)) return [];
  const { engine, guard, engines_refused, flows, packets } = stats;
  return [
    gauge("convey_engine_info", "Always 1; what moves packets, and how the kernel is kept from answering.", [
      { value: 1, labels: { engine, guard } },
    ]),
    gauge(
      "convey_engine_refused_info",
      "Always 1; an engine that auto would have preferred, and the kind of reason.",
      engines_refused.map((refused) => ({
        value: 1,
        labels: { engine: refused.engine, kind: refused.kind },
      })),
    ),
    gauge(
      "convey_flow_table_entries",
      "Flows in the table, ended ones included until they are swept.",
      one(flows.current),
    ),
    gauge("convey_flow_table_capacity", "Flows that fit into the table.", one(flows.capacity)),
    counter("convey_forwarded_packets_total", "Packets sent on.", one(packets.forwarded)),
    counter(
      "convey_replied_packets_total",
      "Packets that the balancer answered itself, by kind of answer.",
      by("kind", packets.replied),
    ),
    counter(
      "convey_answered_packets_total",
      "Packets that the balancer answered instead of sending on, by reason; each is among the replied.",
      by("reason", packets.answered),
    ),
    counter(
      "convey_passed_packets_total",
      "Packets left to the kernel, by reason.",
      by("reason", packets.passed),
    ),
    counter(
      "convey_dropped_packets_total",
      "Packets dropped, or lost on the way in or out, by reason.",
      by("reason", packets.dropped),
    ),
    counter(
      "convey_noted_packets_total",
      "What happened on the way to a verdict, by kind.",
      by("kind", packets.noted),
    ),
    counter(
      "convey_nat_port_probes_total",
      "NAT ports taken, by how many ports were looked at to find one; where the last ones grow, ports are scarce.",
      stats.mode === "passthrough" ? by("probes", { ...NO_PROBES, ...packets.nat_port_probes }) : [],
    ),
    counter(
      "convey_guard_dropped_packets_total",
      "Packets kept from the kernel, which would have answered them; absent where nft does that.",
      packets.guard === undefined ? [] : by("kind", packets.guard),
    ),
  ];
}

const isPacketMode = (stats: Stats): stats is Stats & PacketStats => stats.packets !== undefined;

/** What would become of a packet, as the command line, the HTTP server and `createBalancer()` tell it. */
import { hostPort, type Parsed, parseSocketAddress } from "../config/address.ts";
import type { Protocol } from "../config/schema.ts";
import type { NativeExplanation } from "../native/index.ts";
import { type Finding, wording } from "./wording.ts";

/** A flow that is asked about; addresses are "ip:port", IPv6 in brackets. */
export type FlowQuestion = { protocol: Protocol; source: string; destination: string };

/** The way of one packet through the balancer; null for what does not apply. */
export type Explanation = FlowQuestion & {
  frontend: string | null;
  /** State of the flow, where the flow table has it. */
  flow: string | null;
  direction: "from_client" | "from_server" | null;
  /** The Maglev slot the flow's hash names, where the table was asked. */
  maglev_slot: number | null;
  server: { backend: string; name: string; addr: string } | null;
  /** How the server is reached: translated both ways, by its address, or by its MAC address alone. */
  method: "nat" | "rewrite" | "l2" | null;
  /** Both addresses once rewritten; source port 0 is one still to be taken. */
  rewritten: { source: string; destination: string } | null;
  next_hop: { ifindex: number; mtu: number; source_mac: string; destination_mac: string } | null;
  /** `forward`, `connect` or `wait` (proxy mode), or verdict and reason, such as `pass not_vip`. */
  verdict: string;
  /** How that came about, in order; `kind` tells what was found, `text` is the sentence. */
  steps: Step[];
};

/** One thing found out about a packet, as data and as a sentence. */
export type Step = Finding & { text: string };

/** Reads a flow as people write it; the message of a failure begins with what is wrong. */
export function parseFlow(protocol: string, source: string, destination: string): Parsed<FlowQuestion> {
  if (protocol !== "tcp" && protocol !== "udp") {
    return { ok: false, message: `the protocol ${JSON.stringify(protocol)} is neither tcp nor udp` };
  }
  const from = parseSocketAddress(source, { wildcard: false });
  if (!from.ok) return { ok: false, message: `the source ${JSON.stringify(source)} ${from.message}` };
  const to = parseSocketAddress(destination, { wildcard: false });
  if (!to.ok) return { ok: false, message: `the destination ${JSON.stringify(destination)} ${to.message}` };
  if (from.value.family !== to.value.family) {
    return {
      ok: false,
      message: `the source is IPv${from.value.family} and the destination is IPv${to.value.family}; give two of one family`,
    };
  }
  return {
    ok: true,
    value: {
      protocol,
      source: hostPort(from.value),
      destination: hostPort(to.value),
    },
  };
}

/** Servers told of by name before "and n more". */
const MOST_DOWN = 5;

/** With those of the frontend's servers that get nothing because health checks hold them for down, and why. */
export function withDown(
  explanation: Explanation,
  down: readonly { backend: string; name: string; addr: string; cause: string }[],
): Explanation {
  const findings: Finding[] = down.slice(0, MOST_DOWN).map((it) => ({ kind: "server_down", ...it }));
  if (down.length > MOST_DOWN) findings.push({ kind: "more_servers_down", count: down.length - MOST_DOWN });
  const steps = findings.map((finding) => ({ ...finding, text: wording(finding) }));
  return { ...explanation, steps: [...explanation.steps, ...steps] };
}

export function toExplanation(flow: FlowQuestion, native: NativeExplanation): Explanation {
  const { nextHop } = native;
  return {
    ...flow,
    frontend: native.frontend || null,
    flow: native.flow || null,
    direction: (native.direction || null) as Explanation["direction"],
    maglev_slot: native.maglevSlot ?? null,
    server: native.server ?? null,
    method: (native.method || null) as Explanation["method"],
    rewritten:
      native.rewrittenSource === ""
        ? null
        : { source: native.rewrittenSource, destination: native.rewrittenDestination },
    next_hop: nextHop
      ? {
          ifindex: nextHop.ifindex,
          mtu: nextHop.mtu,
          source_mac: nextHop.source,
          destination_mac: nextHop.destination,
        }
      : null,
    verdict: native.reason === "" ? native.verdict : `${native.verdict} ${native.reason}`,
    steps: native.steps.map((finding) => ({ ...finding, text: wording(finding) })),
  };
}

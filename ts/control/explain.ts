/** What would become of a packet, as the command line, the HTTP server and `createBalancer()` tell it. */
import { hostPort, type Parsed, parseSocketAddress } from "../config/address.ts";
import { isAlpnProtocol, serverName } from "../config/hello-routes.ts";
import type { Config, Protocol } from "../config/schema.ts";
import { ConveyError, type NativeClientHello, type NativeExplanation } from "../native/index.ts";
import { type Finding, wording } from "./wording.ts";

/** A flow that is asked about; addresses are "ip:port", IPv6 in brackets. */
export type FlowQuestion = { protocol: Protocol; source: string; destination: string } & HelloQuestion;

/**
 * What the ClientHello of a connection says, where that is known: the server name (of an encrypted hello the outer one)
 * and the protocols it offers in ALPN, the one liked best first.
 */
export type HelloQuestion = { sni?: string; alpn?: string[] };

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

/** Reads a server name and protocols, the latter with commas between; `undefined` where none was given. */
export function parseHello(
  sni: string | undefined,
  alpn: string | readonly string[] | undefined,
): Parsed<HelloQuestion> {
  const question: HelloQuestion = {};
  if (sni !== undefined) {
    const name = serverName(sni);
    if (!name.ok || name.value.startsWith("*.")) {
      const message = name.ok ? "is a pattern; give a name that a client would send" : name.message;
      return { ok: false, message: `the server name ${JSON.stringify(sni)} ${message}` };
    }
    question.sni = name.value;
  }
  if (alpn !== undefined) {
    question.alpn = typeof alpn === "string" ? alpn.split(",").map((one) => one.trim()) : [...alpn];
    const wrong = question.alpn.find((one) => !isAlpnProtocol(one));
    if (wrong !== undefined) {
      return { ok: false, message: `${JSON.stringify(wrong)} is not a protocol of ALPN, such as "h2"` };
    }
  }
  return { ok: true, value: question };
}

/** What the data plane is asked with; `undefined`: nothing is known of the hello. */
export function nativeHello({ sni, alpn }: HelloQuestion): NativeClientHello | undefined {
  if (sni === undefined && alpn === undefined) return undefined;
  return { ...(sni !== undefined && { sni }), alpn: alpn ?? [] };
}

/**
 * Refuses a question that tells of a ClientHello where the frontend does not look at it.
 *
 * @throws ConveyError `CONFIG_INVALID`.
 */
export function assertLooksAtHello(
  question: HelloQuestion,
  native: NativeExplanation,
  { mode, frontends }: Config,
): void {
  const frontend = frontends[native.frontend];
  if (nativeHello(question) === undefined || frontend === undefined) return;
  const routes = { ...frontend.sni, ...frontend.alpn };
  if (mode === "proxy" && Object.keys(routes).length > 0) return;
  throw new ConveyError(
    "CONFIG_INVALID",
    `frontend "${native.frontend}" does not choose by the ClientHello: it has no routes in sni or alpn; ask without a name and protocols`,
  );
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

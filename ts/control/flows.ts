/**
 * The live flow table as programs, the HTTP server and the command line see it: listed page by page, and ended flow by
 * flow. In proxy mode flows are the open connections.
 *
 * What ending a flow does to the two ends. Proxy mode: both get a reset, a client whose server is still being connected
 * sees its connection closed. Passthrough: nobody is told; the next packet of either side belongs to no flow, which TCP
 * answers with a reset, and a client's next datagram begins a new flow. DSR: the server never heard of the flow table
 * either; the client's next packet is given a server anew, as a rule the same one, and the flow is listed again.
 */
import { isIP } from "node:net";
import {
  canonicalHost,
  type Parsed,
  parsePort,
  parseSocketAddress,
  type SocketAddress,
} from "../config/address.ts";
import type { Protocol } from "../config/schema.ts";
import {
  ConveyError,
  type Dataplane,
  type NativeFlow,
  type NativeFlowFilter,
  type NativeFlowPage,
} from "../native/index.ts";
import { type LiveDecision, type LiveOptions, watchLive } from "./live.ts";
import { Turns } from "./turns.ts";

/**
 * Where a flow stands. `new`: nothing was heard of the server yet (proxy mode: it is being connected); `half_open`: the
 * server has answered and the client has not gone on; `established`; `closing`: one side has ended its half; `closed`:
 * over, and kept for packets that are late.
 */
export type FlowState = "new" | "half_open" | "established" | "closing" | "closed";

/** See `Flow.waits_for`. */
export type WaitsFor = "proxy_header" | "client_hello" | "server";

const FLOW_STATES: readonly string[] = ["new", "half_open", "established", "closing", "closed"];

/** Which flows; what is left out is any. */
export type FlowFilter = {
  protocol?: Protocol | undefined;
  /** "ip", "ip/bits", "ip:port" or ":port"; IPv6 with a port in brackets. */
  client?: string | undefined;
  /** Name of the frontend. */
  frontend?: string | undefined;
  /** What the client talks to: "ip", "ip:port" or ":port". */
  vip?: string | undefined;
  /** Name of the backend. */
  backend?: string | undefined;
  /** "server" or "backend/server". */
  server?: string | undefined;
  state?: FlowState | undefined;
  /** `killFlows()`: that more than one flow is meant; without other parts of the filter every flow. */
  all?: boolean | undefined;
};

/** One flow. Addresses with a port are "ip:port", IPv6 in brackets; `null` is what is not known. */
export type Flow = {
  protocol: Protocol;
  client: string;
  frontend: string;
  /** What the client talks to; in proxy mode where the frontend listens. */
  vip: string;
  server: { backend: string; name: string; addr: string } | null;
  state: FlowState;
  /**
   * What a `new` one waits for, proxy mode: the PROXY header that it begins with, until when `client` is the proxy in
   * front; its ClientHello; a server, in the queue or before it tries again. `null` where it does not wait.
   */
  waits_for: WaitsFor | null;
  /** Milliseconds since it began; proxy mode. */
  age_ms: number | null;
  /** Milliseconds since its last packet, in steps of 17; packet modes. */
  idle_ms: number | null;
  /** Milliseconds until it is forgotten if no packet comes; packet modes. */
  expires_in_ms: number | null;
  /** Where its packets to the server come from: NAT address and port (passthrough), the proxy's own end (proxy mode). */
  nat: string | null;
  /** Datagrams seen, of UDP; in DSR from the client only. */
  packets: number | null;
  /** Bytes to the server; proxy mode. */
  bytes_tx: number | null;
  /** Bytes to the client; proxy mode. */
  bytes_rx: number | null;
};

/** A part of the list of flows. */
export type FlowPage = {
  /** Flows that live throughout the listing are told once, others may be. */
  flows: Flow[];
  /** Where the list goes on; `null`: it has ended. There may be more though `flows` has less than asked for, or none. */
  cursor: string | null;
  /** Why some flows are not listed, in words; `null` when all are. */
  partial: string | null;
};

/** Which part of the list; `limit` is 1 to 10,000 and 1,000 by default. */
export type FlowPageOptions = { cursor?: string | undefined; limit?: number | undefined };

const DEFAULT_LIMIT = 1_000;
const MOST = 10_000;

/** Lists and kills under way and waiting; each holds a thread of Node's pool for some milliseconds. */
const MAX_WAITING = 16;

const PARTIAL: Record<string, string> = {
  minimal_tracking:
    'dsr.connection_tracking is "minimal": only flows are kept that would otherwise go to another server',
  no_memory: "there was no room for IPv6 flows where others may read them: some are not listed",
};

/** The flow table of a running data plane. */
export class Flows {
  readonly #dataplane: Dataplane;
  readonly #assertOpen: () => void;
  readonly #turns = new Turns(MAX_WAITING);

  /** `assertOpen` throws once the balancer is closed. */
  constructor(dataplane: Dataplane, assertOpen: () => void) {
    this.#dataplane = dataplane;
    this.#assertOpen = assertOpen;
  }

  /** See `Balancer.flows()`. */
  async list(filter: FlowFilter, page: FlowPageOptions = {}): Promise<FlowPage> {
    const native = orThrow(lowerFilter(filter));
    const limit = page.limit ?? DEFAULT_LIMIT;
    if (!Number.isInteger(limit) || limit < 1 || limit > MOST) {
      throw new ConveyError("CONFIG_INVALID", `the limit ${limit} is not a whole number from 1 to ${MOST}`, {
        field: "limit",
      });
    }
    const found = await this.#take(() => this.#dataplane.flows(native, page.cursor ?? "", limit));
    return toPage(found);
  }

  /** See `Balancer.killFlows()`. */
  async kill(filter: FlowFilter): Promise<{ killed: number }> {
    const native = orThrow(lowerFilter(filter));
    if (filter.all !== true && !isOneFlow(native)) {
      throw new ConveyError(
        "CONFIG_INVALID",
        "this may be more than one flow: name one by protocol, client (ip:port) and vip (ip:port), or set all",
        { field: "all" },
      );
    }
    return { killed: await this.#take(() => this.#dataplane.killFlows(native)) };
  }

  /** See `Balancer.explainLive()`. */
  live(filter: FlowFilter, options: LiveOptions): AsyncIterableIterator<LiveDecision, undefined> {
    const native = orThrow(lowerFilter(filter));
    this.#assertOpen();
    return watchLive(this.#dataplane, native, options);
  }

  async #take<T>(ask: () => Promise<T | null>): Promise<T> {
    this.#assertOpen();
    const answer = await this.#turns.take(() => {
      this.#assertOpen();
      return ask();
    });
    if (answer !== null) return answer;
    this.#assertOpen();
    throw new ConveyError("INTERNAL", "a worker did not answer");
  }
}

/**
 * Reads a filter as people write it, each part a text. The message of a failure begins with what is wrong. Keys are
 * those of `FlowFilter`; `all` is "true" or "false".
 */
export function parseFlowFilter(parts: Record<string, string | undefined>): Parsed<FlowFilter> {
  const filter: Record<string, string | boolean> = {};
  for (const [key, value] of Object.entries(parts)) {
    if (value === undefined) continue;
    if (!KEYS.includes(key)) {
      return {
        ok: false,
        message: `a filter has no ${JSON.stringify(key)}; its parts are ${KEYS.join(", ")}`,
      };
    }
    if (key !== "all") filter[key] = value;
    else if (value === "true" || value === "false") filter.all = value === "true";
    else return { ok: false, message: `all ${JSON.stringify(value)} is neither true nor false` };
  }
  const read = filter as FlowFilter;
  const lowered = lowerFilter(read);
  return lowered.ok ? { ok: true, value: read } : lowered;
}

const KEYS = ["protocol", "client", "frontend", "vip", "backend", "server", "state", "all"];

/** The filter as the data plane takes it. */
export function lowerFilter(filter: FlowFilter): Parsed<NativeFlowFilter> {
  const { protocol, client, frontend, vip, backend, server, state } = filter;
  if (protocol !== undefined && protocol !== "tcp" && protocol !== "udp") {
    return refuse("protocol", protocol, "is neither tcp nor udp");
  }
  if (state !== undefined && !FLOW_STATES.includes(state)) {
    return refuse("state", state, `is none of ${FLOW_STATES.join(", ")}`);
  }
  for (const [key, name] of Object.entries({ frontend, backend, server })) {
    if (name === "") return refuse(key, name, "is empty");
  }
  const from = parseEnd(client ?? "", { net: true });
  if (!from.ok || client === "") return refuse("client", client, from.ok ? "is empty" : from.message);
  const to = parseEnd(vip ?? "", { net: false });
  if (!to.ok || vip === "") return refuse("vip", vip, to.ok ? "is empty" : to.message);
  const slash = server?.indexOf("/") ?? -1;
  const named = slash < 0 ? backend : server?.slice(0, slash);
  if (backend !== undefined && named !== backend) {
    return refuse("server", server, `is not of the backend ${JSON.stringify(backend)}`);
  }
  return {
    ok: true,
    value: {
      protocol: protocol ?? "",
      client: from.value.host,
      ...(from.value.port === undefined ? {} : { clientPort: from.value.port }),
      vip: to.value.host,
      ...(to.value.port === undefined ? {} : { vipPort: to.value.port }),
      frontend: frontend ?? "",
      backend: named ?? "",
      server: server?.slice(slash + 1) ?? "",
      state: state ?? "",
    },
  };
}

type End = { host: string; port?: number };

/** "ip", "ip:port", ":port", with `net` "ip/bits" too; "" is any. */
function parseEnd(text: string, options: { net: boolean }): Parsed<End> {
  if (text === "") return { ok: true, value: { host: "" } };
  if (text.startsWith(":") && isIP(text) === 0) {
    const port = parsePort(text.slice(1));
    if (port === undefined) return { ok: false, message: "has a port that is not a number from 0 to 65535" };
    return { ok: true, value: { host: "", port } };
  }
  const [address = "", bits, ...rest] = text.split("/");
  if (isIP(address) !== 0 && rest.length === 0) {
    const { family, host } = canonicalHost(address);
    if (bits === undefined) return { ok: true, value: { host } };
    const most = family === 4 ? 32 : 128;
    if (!options.net) return { ok: false, message: "is a net, and one address is wanted" };
    if (!/^\d{1,3}$/.test(bits) || Number(bits) > most) {
      return { ok: false, message: `has a number of bits that is not from 0 to ${most}` };
    }
    return { ok: true, value: { host: `${host}/${Number(bits)}` } };
  }
  const parsed: Parsed<SocketAddress> = parseSocketAddress(text, { wildcard: false });
  return parsed.ok ? { ok: true, value: { host: parsed.value.host, port: parsed.value.port } } : parsed;
}

const refuse = (key: string, value: unknown, why: string): { ok: false; message: string } => ({
  ok: false,
  message: `${key} ${JSON.stringify(value)} ${why}`,
});

function orThrow<T>(parsed: Parsed<T>): T {
  if (parsed.ok) return parsed.value;
  throw new ConveyError("CONFIG_INVALID", parsed.message, { field: parsed.message.split(" ", 1)[0] ?? "" });
}

/** Whether protocol and both ends are named in full. */
const isOneFlow = ({ protocol, client, clientPort, vip, vipPort }: NativeFlowFilter): boolean =>
  protocol !== "" &&
  client !== "" &&
  !client.includes("/") &&
  clientPort !== undefined &&
  vip !== "" &&
  vipPort !== undefined;

function toPage({ flows, cursor, partial }: NativeFlowPage): FlowPage {
  return {
    flows: flows.map(toFlow),
    cursor: cursor === "" ? null : cursor,
    partial: partial === "" ? null : (PARTIAL[partial] ?? partial),
  };
}

function toFlow(native: NativeFlow): Flow {
  return {
    protocol: native.protocol as Protocol,
    client: native.client,
    frontend: native.frontend,
    vip: native.vip,
    server: native.server ?? null,
    state: native.state as FlowState,
    waits_for: native.waitsFor === "" ? null : (native.waitsFor as WaitsFor),
    age_ms: native.ageMs ?? null,
    idle_ms: native.idleMs ?? null,
    expires_in_ms: native.expiresInMs ?? null,
    nat: native.nat === "" ? null : native.nat,
    packets: native.packets ?? null,
    bytes_tx: native.bytesTx ?? null,
    bytes_rx: native.bytesRx ?? null,
  };
}

/** The filter that means exactly this flow. */
export const filterOf = ({ protocol, client, vip }: Flow): FlowFilter => ({ protocol, client, vip });

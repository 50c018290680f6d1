/** What was found out about a packet, in words. */
import type { NativeStep } from "../native/index.ts";

/** One thing found out about a packet: as the data plane tells it, or of servers that health checks hold for down. */
export type Finding =
  | NativeStep
  | { kind: "server_down"; backend: string; name: string; addr: string; cause: string }
  | { kind: "more_servers_down"; count: number };

/** The sentence for a finding. */
export function wording(finding: Finding): string {
  switch (finding.kind) {
    case "own_address":
      return `${finding.source} is an address of this host: its packets to ${finding.destination} pass no link`;
    case "not_listened_on":
      return `packets from ${finding.source} come in by interface ${finding.interface}, which is not listened on`;
    case "no_ethernet":
      return `packets from ${finding.source} come in by interface ${finding.interface}, no Ethernet link that is up`;
    case "no_frontend":
      return `no frontend listens on ${finding.destination}`;
    case "not_ours":
      return `no frontend listens on ${finding.destination} and no flow answers to it`;
    case "flow_port":
      return `port ${finding.port} belongs to a flow (${finding.state})`;
    case "stray_port":
      return `no flow holds port ${finding.port} towards ${finding.server}`;
    case "listens":
      return `frontend "${finding.frontend}" listens there`;
    case "accepts":
      return `frontend "${finding.frontend}" listens there and accepts the connection`;
    case "listens_no_longer":
      return `frontend "${finding.frontend}" no longer listens there; it keeps the flows it has`;
    case "known_flow":
      return `the flow table knows it (${finding.state})`;
    case "new_flow":
      return "the flow table does not know it";
    case "not_tracked":
      return "flows are not kept: the Maglev table decides";
    case "not_remembered":
      return "the flow table does not know it, and its slot of the Maglev table has moved lately";
    case "slot_moved":
      return `a connection from before the slot moved goes on at server "${finding.name}" of backend "${finding.backend}", ${finding.addr}; a new one:`;
    case "maglev_slot":
      return `${finding.key === "source" ? "the hash of the client's address" : "its hash"} names slot ${finding.slot} of the Maglev table`;
    case "denied":
      return finding.network === ""
        ? `${finding.client} is in none of the networks that are allowed`
        : `${finding.client} is denied, as ${finding.network} is`;
    case "refused":
      return `it is refused: ${finding.reason}`;
    case "server":
      return `server "${finding.name}" of backend "${finding.backend}", ${finding.addr}`;
    case "rewritten":
      return `rewritten to ${rewrittenSource(finding.source)} -> ${finding.destination}`;
    case "macs_only":
      return "only its MAC addresses change";
    case "server_is_client":
      return "the server is its own client: it would take the packet for a forged one";
    case "behind_router":
      return `${finding.address} is behind a router, which method "l2" does not reach`;
    case "sent":
      return `sent on interface ${finding.interface} (MTU ${finding.mtu})`;
    case "no_neighbour":
      return `the MAC address of ${finding.address} on interface ${finding.interface} is not known yet`;
    case "no_route":
      return `no route leads to ${finding.address}`;
    case "no_link":
      return `the route to ${finding.address} is over interface ${finding.interface}, no Ethernet link that is up`;
    case "route_rejected":
      return `the route to ${finding.address} is of type ${finding.reject}`;
    case "balanced":
      return `backend "${finding.backend}" ${METHODS[finding.balance] ?? `chooses by ${finding.balance}`}:`;
    case "share":
      return `${finding.backup ? "backup " : ""}server "${finding.name}", ${finding.addr}, weight ${finding.weight}: ${share(finding)} of new connections`;
    case "no_server":
      return `backend "${finding.backend}" has no server that is up with a weight`;
    case "at_limit":
      return `backend "${finding.backend}", or each of its servers that are up, has as many connections as it may have`;
    case "waits":
      return `it waits in the queue of backend "${finding.backend}", where ${finding.waiting} of ${finding.queue} wait already`;
    case "tries_again":
      return `it waits up to ${finding.timeoutMs} ms for a server of backend "${finding.backend}"`;
    case "server_down":
      return `server "${finding.name}" is down${finding.cause === "" ? "" : `: ${finding.cause}`}`;
    case "more_servers_down":
      return `and ${finding.count} more servers are down`;
    case "by_client_hello":
      return `its ClientHello, which is not known here, may lead it elsewhere by name or protocol; without a name, with an encrypted one or without a route it goes to backend "${finding.backend}":`;
    case "hello_route":
      return finding.table === "sni"
        ? `its ClientHello names a server of the route "${finding.key}" in sni, which leads to backend "${finding.backend}":`
        : `its ClientHello offers "${finding.key}", the first of its protocols with a route in alpn, which leads to backend "${finding.backend}":`;
    case "no_hello_route":
      return `neither the name nor a protocol of its ClientHello has a route, so it goes to the frontend's backend "${finding.backend}":`;
    case "own_connection":
      return "the connection to the server is one of the balancer's own";
    default:
      return finding satisfies never;
  }
}

const METHODS: Record<string, string> = {
  round_robin: "takes its servers by weighted round robin",
  least_connections: "takes the server with the fewest open connections for its weight, of idle ones",
  random_two: "takes the better of two servers drawn by weight, of idle ones",
  source_hash: "takes the server that the hash of the client's address names in its Maglev table",
  maglev: "takes the server that the hash of addresses and ports names in its Maglev table",
};

function share({ weight, total }: { weight: number; total: number }): string {
  return `${((100 * weight) / total).toFixed(1)} %`;
}

/** Source port 0 is one still to be taken. */
function rewrittenSource(source: string): string {
  return source.endsWith(":0") ? `${source.slice(0, -2).replace(/^\[(.*)\]$/, "$1")} (a free port)` : source;
}

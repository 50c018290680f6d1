/** Where clients connect. */
import { z } from "zod";
import { DEFAULT_TIMEOUT_MS } from "./hello-routes.ts";
import { MAX_LISTEN } from "./listen.ts";
import {
  burst,
  connectionRate,
  count,
  fastOpen,
  flag,
  flowLifetime,
  helloRoutes,
  listenAddress,
  listenRanges,
  milliseconds,
  network,
  networks,
  protocolSchema,
} from "./values.ts";
import { wording } from "./wording.ts";

const xdpSchema = z
  .strictObject({
    bpf_program_path: z.string().optional().describe("Deprecated, no effect: the built-in program is used."),
    progsec_name: z.string().optional().describe("Deprecated, no effect: the built-in program is used."),
    xsks_map_name: z.string().optional().describe("Deprecated, no effect: the built-in program is used."),
  })
  .describe("Deprecated, no effect: the built-in program is used.");

export const frontendSchema = z
  .strictObject({
    listen: listenRanges
      .optional()
      .describe(
        `Where clients connect: one address or a list of up to 64, each with a port or a range of ports, ${MAX_LISTEN} in all; IPv6 in brackets. ":80" is every IPv4 address. Port 0 lets the kernel choose, proxy mode. A range leads to the one port of each server, in dsr mode to the port that the client asked for.`,
      ),
    listen_addr: listenAddress
      .optional()
      .describe("The same for one address and port; a frontend has listen or listen_addr."),
    backend: z
      .string()
      .register(wording, { type: "name of a backend", expected: "the name of a backend" })
      .describe("The backend that serves this frontend."),
    sni: helloRoutes
      .optional()
      .describe(
        'Backends by the server name that a TLS client asks for, proxy mode: "app.example.com" or "*.example.com", which is any name below; TLS is not ended. The whole name comes before the longest wildcard, that before alpn and that before backend.',
      ),
    alpn: helloRoutes
      .optional()
      .describe(
        'Backends by the first protocol offered in ALPN that has a route here, such as "h2", where sni has none for the name, proxy mode; "acme-tls/1", offered alone, comes before sni.',
      ),
    client_hello_timeout_ms: milliseconds
      .min(1)
      .default(DEFAULT_TIMEOUT_MS)
      .describe(
        "With sni or alpn, milliseconds that a client may take to say its ClientHello: one that has said nothing by then goes to backend, one that has begun is closed.",
      ),
    protocol: protocolSchema.default("tcp").describe("The protocol."),
    max_connections: count
      .default(0)
      .describe("Connections open at once on this frontend, proxy and passthrough mode; 0 is no limit."),
    tcp_user_timeout_ms: milliseconds
      .default(0)
      .describe(
        "Milliseconds that what was sent to a client may stay unacknowledged, or a client take nothing, before the kernel ends the connection (TCP_USER_TIMEOUT), proxy mode; 0 is as the kernel has it.",
      ),
    tcp_fast_open: fastOpen
      .default(0)
      .describe(
        "Connections begun with data in the SYN (TCP Fast Open) that may wait for their handshake, proxy mode; true is 256, 0 or false off. Needs bit 2 of net.ipv4.tcp_fastopen.",
      ),
    mptcp: z
      .boolean()
      .register(wording, { type: "boolean", expected: "true or false" })
      .default(false)
      .describe(
        "Whether clients may come by Multipath TCP, proxy mode; plain TCP where the kernel has none.",
      ),
    accept_proxy: flag
      .default(false)
      .describe(
        "Whether every connection begins with a PROXY header, version 1 or 2, that tells who the client is, proxy mode.",
      ),
    proxy_trusted: z
      .array(network)
      .min(1)
      .max(1024)
      .register(wording, {
        type: "list of networks",
        expected: 'a list of networks, such as ["10.0.0.0/8", "2001:db8::1"]',
      })
      .optional()
      .describe(
        "With accept_proxy, the networks of the proxies in front: nobody else may connect. Unless given everybody may, and is believed.",
      ),
    proxy_header_timeout_ms: milliseconds
      .min(1)
      .default(3000)
      .describe("With accept_proxy, milliseconds that the header may take."),
    allow: networks
      .optional()
      .describe(
        "Networks whose clients may connect; with it, clients in no list are refused. Of all networks in allow and deny that a client is in, the longest prefix decides.",
      ),
    deny: networks
      .optional()
      .describe("Networks whose clients are refused; without allow, clients in no list may connect."),
    max_connection_rate: connectionRate.describe(
      "New connections a second on this frontend, proxy mode; 0 is no limit.",
    ),
    max_connection_rate_burst: burst.describe(
      "New connections that may come at once within max_connection_rate, which refills it; as many as the rate unless given.",
    ),
    max_connection_rate_per_client: connectionRate.describe(
      "New connections a second of one client on this frontend, proxy mode; 0 is no limit.",
    ),
    max_connection_rate_per_client_burst: burst.describe(
      "New connections of one client that may come at once within max_connection_rate_per_client; as many as the rate unless given.",
    ),
    udp_idle_timeout_ms: flowLifetime
      .optional()
      .describe(
        "Milliseconds without a datagram in either direction after which a client's session ends, UDP in proxy mode; 60000 unless given.",
      ),
    udp_responses: count
      .optional()
      .describe(
        "Datagrams expected from the server for each one of the client, after which the session ends, UDP in proxy mode; 0 expects none. Unless given, a session ends by its idle timeout alone.",
      ),
    udp_requests: count
      .optional()
      .describe(
        "Datagrams of a client after which its next one begins another session, UDP in proxy mode; 0 is no limit, as is leaving it out.",
      ),
    max_sessions: count
      .optional()
      .describe(
        "Sessions at once on this frontend, UDP in proxy mode; 16384 unless given, 0 is no limit. At the limit the one that has been silent for longest makes room, of those whose client has not gone on after an answer; where there is none, new clients are refused.",
      ),
    xdp: xdpSchema.optional(),
  })
  .describe("Where clients connect, and the backend that serves them.");

/** What holds for a UDP frontend in proxy mode that does not say otherwise. */
export const UDP_DEFAULTS = { udp_idle_timeout_ms: 60_000, udp_requests: 0, max_sessions: 16_384 } as const;

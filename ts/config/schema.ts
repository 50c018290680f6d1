/**
 * The configuration as people write it (TOML or an object of the same shape), and the one place where
 * defaults are applied. Durations carry their unit in the name; keys without one are seconds, as in 0.3.5.
 *
 * The descriptions are the reference: `convey schema`, the editor's pop-ups and the table of samples/README.md are made
 * from them. What a value must be is told by `wording` where the schema's own type does not say it.
 */
import { isIP } from "node:net";
import { z } from "zod";
import {
  canonicalHost,
  hostPort,
  notUnicast,
  parsePort,
  parsePortRange,
  parseSocketAddress,
} from "./address.ts";
import { expandSource, parseCidr } from "./client-address.ts";
import { healthCheckSchema } from "./health-check-schema.ts";
import { DEFAULT_TIMEOUT_MS } from "./hello-routes.ts";
import { countListens, formatListen, MAX_LISTEN, parseListen } from "./listen.ts";
import { MOST_NETWORKS, parseNetwork } from "./networks.ts";
import { formatServerAddress, notAServer, parseServerAddress } from "./server-address.ts";
import { readString, wording } from "./wording.ts";
import { BALANCES, ENGINES, LOG_LEVELS, MODES } from "./words.ts";

export { wording };

const count = z.int().min(0).max(0xffff_ffff);
const flag = z.boolean().register(wording, { type: "boolean", expected: "true or false" });
const milliseconds = z.int().min(0).max(86_400_000);
const workers = z.int().min(0).max(1024);
/** From what a flow may need at least to a day: beyond 39 hours the flow table cannot tell an age. */
const flowLifetime = z.int().min(100).max(86_400_000);

const listenAddress = readString((text) => {
  const parsed = parseSocketAddress(text, { wildcard: true });
  if (!parsed.ok) return parsed;
  const message = notUnicast(parsed.value.host);
  if (message !== undefined) return { ok: false, message: `${message}, where nothing can listen` };
  return { ok: true, value: hostPort(parsed.value) };
}).register(wording, {
  type: '"ip:port"',
  expected: '"ip:port", such as "127.0.0.1:3000", "[::1]:3000" or ":3000"',
  pattern: String.raw`^(\[[0-9A-Fa-f:.]+\]|[0-9.]*):[0-9]{1,5}$`,
});

const ADDRESSES =
  '"ip:port" or "ip:from-to", or a list of them, such as ["127.0.0.1:80", "[::1]:80", ":8000-8010"]';

const listenRange = z.string().register(wording, {
  type: '"ip:port"',
  expected: '"ip:port" or "ip:from-to", such as "127.0.0.1:3000", "[::1]:3000" or ":8000-8010"',
  pattern: String.raw`^(\[[0-9A-Fa-f:.]+\]|[0-9.]*):[0-9]{1,5}(-[0-9]{1,5})?$`,
});

/** Always a list from then on. What is wrong with an item is told of that item, which a union of its own would not do. */
const listenRanges = z
  .union([listenRange, z.array(listenRange)])
  .transform((written, context) => {
    const texts = typeof written === "string" ? [written] : written;
    const bad = (message: string, path: number[] = []): void => {
      context.issues.push({ code: "custom", message, input: written, path });
    };
    const ranges = texts.flatMap((text, index) => {
      const parsed = parseListen(text);
      if (parsed.ok) return [parsed.value];
      bad(parsed.message, typeof written === "string" ? [] : [index]);
      return [];
    });
    const count = countListens(ranges);
    if (texts.length === 0) bad("is empty");
    else if (texts.length > 64) bad(`has ${texts.length} entries, more than 64`);
    else if (count > MAX_LISTEN) bad(`has ${count} addresses and ports, more than ${MAX_LISTEN}`);
    return context.issues.length > 0 ? z.NEVER : ranges.map(formatListen);
  })
  .register(wording, { type: '"ip:port", "ip:from-to" or list of them', expected: ADDRESSES });

const serverAddress = readString((text) => {
  const parsed = parseServerAddress(text);
  return parsed.ok ? { ok: true, value: formatServerAddress(parsed.value) } : parsed;
}).register(wording, {
  type: '"ip:port", "name:port", SRV name or "unix:path"',
  expected:
    '"ip:port", such as "10.0.0.1:8080" or "[2001:db8::1]:8080", "name:port", an SRV name or "unix:/path"',
  pattern: String.raw`^(\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}|[0-9A-Za-z._-]+:[0-9]{1,5}|_[0-9A-Za-z._-]+|unix:[/@].+)$`,
});

const resolverAddress = readString((text) => {
  const parsed = parseSocketAddress(withPort53(text), { wildcard: false });
  if (!parsed.ok) return parsed;
  const message = notAServer(parsed.value.host, parsed.value.port);
  return message === undefined
    ? { ok: true, value: hostPort(parsed.value) }
    : { ok: false, message: message.replace("no server", "no DNS server") };
}).register(wording, {
  type: '"ip" or "ip:port"',
  expected: 'an IP address and, unless it is 53, a port, such as "10.0.0.53" or "127.0.0.1:5353"',
});

const withPort53 = (text: string): string =>
  isIP(text) === 0 || text.includes("%") ? text : hostPort({ host: text, port: 53 });

const ipAddress = readString((text) => {
  if (!isIP(text) || text.includes("%")) return { ok: false, message: "is not an IP address" };
  const { host } = canonicalHost(text);
  const message = notUnicast(host);
  return message === undefined
    ? { ok: true, value: host }
    : { ok: false, message: `${message}, where nothing can listen` };
}).register(wording, { type: "IP address", expected: 'an IP address, such as "127.0.0.1" or "::1"' });

const hostName = readString((text) =>
  isIP(text) !== 0 || text === "*" || /^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?$/i.test(text)
    ? { ok: true, value: text }
    : { ok: false, message: "is not a host name or IP address" },
).register(wording, {
  type: "host name or IP address",
  expected: 'a host name or IP address without a port, such as "lb.example.com", or "*"',
  pattern: "^[0-9A-Za-z._:*-]+$",
});

const portRange = readString((text) => {
  const parsed = parsePortRange(text);
  return parsed.ok ? { ok: true, value: `${parsed.value.from}-${parsed.value.to}` } : parsed;
}).register(wording, { type: '"from-to"', expected: 'two ports from 1024 to 65535, such as "33768-61000"' });

const natAddresses = z
  .array(ipAddress)
  .max(64)
  .transform((addresses, context) => {
    const twice = addresses.find((address, i) => addresses.indexOf(address) < i);
    if (twice === undefined) return addresses;
    context.issues.push({ code: "custom", message: `names ${twice} twice`, input: addresses });
    return z.NEVER;
  })
  .register(wording, {
    type: "list of IP addresses",
    expected: 'at most 64 different IP addresses, such as ["10.0.0.2", "10.0.0.3"]',
  });

const cidr = readString(parseCidr).register(wording, {
  type: '"address/bits"',
  expected: 'a network or an address, such as "10.0.0.0/8", "2001:db8::/32" or "192.0.2.7"',
});

const sourceItem = z.string().register(wording, {
  type: "IP address or range",
  expected: 'an IP address or a range of them, such as "10.0.0.2" or "10.0.0.2-10.0.0.9"',
});

/** "client" or the addresses, ranges written out. */
const source = z
  .union([z.string(), z.array(sourceItem)])
  .transform((value, context): "client" | string[] => {
    const expanded = expandSource(value);
    if (expanded.ok) return expanded.value;
    context.issues.push({ code: "custom", message: expanded.message, input: value });
    return z.NEVER;
  })
  .register(wording, {
    type: '"client", IP address, range or list of these',
    expected: '"client", "10.0.0.2", "10.0.0.2-10.0.0.9" or a list of addresses and ranges',
  });

const networks = z
  .array(
    readString(parseNetwork).register(wording, {
      type: "network",
      expected: 'a network, such as "192.0.2.0/24", "2001:db8::/32" or "192.0.2.7"',
    }),
  )
  .max(MOST_NETWORKS)
  .register(wording, {
    type: "list of networks",
    expected: `a list of at most ${MOST_NETWORKS} networks, such as ["192.0.2.0/24", "2001:db8::/32"]`,
  });

const connectionRate = z.int().min(0).max(1_000_000).default(0);
const burst = z.int().min(1).max(1_000_000).optional();

/** Backends by what a ClientHello says. The rules check names, once for all of a frontend. */
const helloRoutes = z
  .record(
    z.string(),
    z
      .string()
      .register(wording, { type: "name of a backend", expected: "the name of a backend" })
      .describe("The backend."),
  )
  .register(wording, {
    type: "table of names of backends",
    expected: 'a table of names of backends, such as { "app.example.com" = "app" }',
  });

/** As the kernel takes them: at most 15 characters, no slash, no space. */
const interfaceNames = z
  .array(
    z
      .string()
      .regex(/^[^\s/:]{1,15}$/)
      .register(wording, {
        type: "name",
        expected: 'the name of an interface, such as "eth0"',
      }),
  )
  .max(256)
  .register(wording, {
    type: "array of names",
    expected: 'an array of names of interfaces, such as ["eth0", "eth1"]',
  });

const fastOpen = z
  .union([z.boolean(), z.int().min(0).max(65535)])
  .transform((value) => (typeof value === "number" ? value : value ? 256 : 0))
  .register(wording, {
    type: "boolean or integer, 0 to 65535",
    expected: "true, false, or a number from 0 to 65535",
  });

const statsPort = z
  .union([z.int().min(0).max(65535), z.string().regex(/^\d{1,5}$/)])
  .transform((value, context) => {
    const port = typeof value === "number" ? value : parsePort(value);
    if (port !== undefined) return port;
    context.issues.push({ code: "custom", message: "is not a port", input: value });
    return z.NEVER;
  })
  .register(wording, {
    type: "string or integer, 0 to 65535",
    expected: "a port from 0 to 65535, as a string or an integer",
  });

/** Names address things at run time as `backend/server`, and appear in logs and metrics. */
const name = z
  .string()
  .min(1, "a name cannot be empty")
  .max(255, "a name has at most 255 characters")
  .regex(/^[^/]*$/, 'a name cannot contain "/", which separates backend from server in commands')
  .regex(/^\P{Cc}*$/u, "a name cannot contain control characters")
  // An address such as /api/v1/servers/app/.. is another one before it is sent, however it is escaped.
  .regex(/^(?!\.\.?$)/, 'a name cannot be "." or "..", which addresses of the HTTP server cannot name');

const path = z.string().min(1).register(wording, { type: "path", expected: "a path" });

export const modeSchema = z
  .enum(MODES)
  .describe(
    "How traffic is forwarded: proxy ends TCP and opens connections of its own, passthrough rewrites packets both ways, dsr rewrites packets to the server, which answers the client directly.",
  );
export const engineSchema = z
  .enum(ENGINES)
  .describe(
    "What moves packets in passthrough and dsr mode: tc and xdp are kernel programs, af_xdp and af_packet work in user space; auto chooses by link, driver and privilege.",
  );
export const protocolSchema = z.enum(["tcp", "udp"]);
export const dsrMethodSchema = z.enum(["rewrite", "l2"]);
export const connectionTrackingSchema = z.enum(["full", "minimal"]);
export const xdpModeSchema = z.enum(["native", "generic"]);
export const balanceSchema = z.enum(BALANCES);
export const sendProxySchema = z.enum(["off", "v1", "v2"]);
export const checkSchema = z.enum(["vip", "address"]);
export const logLevelSchema = z.enum(LOG_LEVELS);

export const resolveSchema = z.enum(["all", "first"]);

/** How names of servers are resolved. */
const resolverSchema = z
  .strictObject({
    servers: z
      .array(resolverAddress)
      .max(8)
      .register(wording, {
        type: "list of addresses",
        expected: 'at most 8 addresses, such as ["10.0.0.53", "127.0.0.1:5353"]',
      })
      .default([])
      .describe("DNS servers to ask, port 53 unless given; empty is those of /etc/resolv.conf."),
    timeout_ms: milliseconds
      .min(1)
      .max(60_000)
      .default(1000)
      .describe("Milliseconds that a DNS server has to answer one question."),
    retries: z
      .int()
      .min(0)
      .max(16)
      .default(2)
      .describe("Further tries of a question that was not answered, at the next DNS server each."),
    min_ttl_ms: milliseconds
      .min(100)
      .default(1000)
      .describe("Milliseconds that an answer counts at least, whatever its TTL."),
    max_ttl_ms: milliseconds
      .min(100)
      .default(60_000)
      .describe("Milliseconds that an answer counts at most, whatever its TTL."),
    hold_ms: milliseconds
      .default(30_000)
      .describe(
        "Milliseconds that the last addresses of a name stay when DNS says that it does not exist or has none. When DNS does not answer they stay as long as that lasts.",
      ),
  })
  .describe("How names of servers are resolved.");

export const serverSchema = z
  .strictObject({
    addr: serverAddress.describe(
      "Where the server listens; IPv6 in brackets. A name stands for the addresses that DNS has for it, _service._proto.name for those of an SRV record. unix:/path or unix:@abstract is a Unix socket, proxy mode.",
    ),
    resolve: resolveSchema
      .optional()
      .describe(
        "Which addresses of a name are servers: all, each one of its own; first, one. all unless given.",
      ),
    weight: z
      .int()
      .min(0)
      .max(65535)
      .default(1)
      .describe("Share of new connections relative to the other servers; 0 takes it out of rotation."),
    max_connections: count
      .default(0)
      .describe("Connections open at once to this server, proxy and passthrough mode; 0 is no limit."),
    backup: z
      .boolean()
      .register(wording, { type: "boolean", expected: "true or false" })
      .default(false)
      .describe(
        "Whether it gets connections only while no other server can take one: all are down, drained or weigh 0, in proxy mode also full or tried in vain.",
      ),
    send_proxy: sendProxySchema
      .optional()
      .describe(
        "PROXY header that connections and health checks to this server begin with, proxy mode; that of the backend unless given.",
      ),
  })
  .describe("A member of a backend.");

export const backendSchema = z
  .strictObject({
    health_check_interval: z
      .int()
      .min(0)
      .max(86_400)
      .overwrite((seconds) => (seconds === 0 ? 5 : seconds))
      .default(5)
      .describe("Seconds between health checks of a server; 0 means 5."),
    health_check_timeout_ms: milliseconds
      .min(1)
      .default(2000)
      .describe("Milliseconds a health check waits for the TCP connection."),
    health_check_fast_interval_ms: milliseconds
      .min(1)
      .default(1000)
      .describe("Milliseconds between checks while a server is changing between up and down."),
    health_check_rise: z
      .int()
      .min(1)
      .max(1000)
      .default(2)
      .describe("Successful checks in a row that bring a server up."),
    health_check_fall: z
      .int()
      .min(1)
      .max(1000)
      .default(3)
      .describe("Failed checks in a row that take a server down."),
    connect_timeout_ms: milliseconds
      .min(1)
      .default(3000)
      .describe("Milliseconds to wait for a server to accept a connection, proxy mode."),
    retries: z
      .int()
      .min(0)
      .max(100)
      .default(2)
      .describe("Further servers tried after a failed connect, proxy mode."),
    idle_timeout_ms: milliseconds
      .default(300_000)
      .describe(
        "Milliseconds without a byte in either direction after which a connection is closed, proxy mode; 0 is never.",
      ),
    max_duration_ms: milliseconds
      .default(0)
      .describe("Milliseconds a connection may last, proxy mode; 0 is no maximum."),
    half_close_timeout_ms: milliseconds
      .default(0)
      .describe(
        "Milliseconds one side may be silent after the other has sent its FIN, proxy mode; 0 is as long as idle_timeout_ms.",
      ),
    tcp_user_timeout_ms: milliseconds
      .default(0)
      .describe(
        "Milliseconds that what was sent to a server may stay unacknowledged, or a server take nothing, before the kernel ends the connection (TCP_USER_TIMEOUT), proxy mode; 0 is as the kernel has it.",
      ),
    max_connections: count
      .default(0)
      .describe("Connections open at once over all servers of the backend, proxy mode; 0 is no limit."),
    queue: count
      .default(0)
      .describe(
        "Connections that may wait, in the order in which they came, while the backend or all its servers are at max_connections or no server is up, proxy mode; 0 is none: they are closed.",
      ),
    queue_timeout_ms: milliseconds
      .min(1)
      .default(5000)
      .describe("Milliseconds a connection waits in the queue before it is closed, proxy mode."),
    retry_timeout_ms: milliseconds
      .default(0)
      .describe(
        "Milliseconds for which servers that failed are tried again, after pauses of 50 ms doubled up to 1 s, and one is waited for where none is up, proxy mode; 0 is not at all.",
      ),
    balance: balanceSchema
      .optional()
      .describe(
        "How a server is chosen, always by weight: round_robin in turn; least_connections the one with fewest open; random_two the better of two drawn; source_hash by the client's address; maglev by addresses and ports. round_robin unless given; in passthrough and dsr mode maglev, beside which there is source_hash.",
      ),
    source_hash_ipv6_prefix: z
      .int()
      .min(1)
      .max(128)
      .default(64)
      .describe(
        "Leading bits of an IPv6 client's address that source_hash goes by; of IPv4 the whole address counts.",
      ),
    slow_start_ms: milliseconds
      .default(0)
      .describe(
        "Milliseconds over which a server that begins or comes back while others serve gets its weight, in 20 steps from a twentieth; 0 is at once. At the start of the process all have it.",
      ),
    send_proxy: sendProxySchema
      .default("off")
      .describe(
        "PROXY header that connections and health checks to the servers begin with, proxy mode: v1 a line of text, v2 binary, off none.",
      ),
    source: source
      .optional()
      .describe(
        "Where connections to the servers start from, proxy mode: an address of this host, a range or a list of them, used in turn, or client for the client's own address, which needs privileges and routes. The kernel chooses unless given, or where there is none of the server's family.",
      ),
    dsr_method: dsrMethodSchema
      .optional()
      .describe("How packets reach the servers of this backend in dsr mode; dsr.method unless given."),
    check: checkSchema
      .optional()
      .describe(
        "What health checks ask a server for: vip the frontends' addresses, as clients do, dsr mode only; address its own. Unless given, vip with method l2, address otherwise.",
      ),
    health_check: healthCheckSchema.optional(),
    on_down: z
      .enum(["keep", "reset"])
      .default("keep")
      .describe(
        "What becomes of the connections of a server that checks have found down: keep leaves them open, reset ends them.",
      ),
    eject_after: z
      .int()
      .min(0)
      .max(1_000_000)
      .default(0)
      .describe(
        "Failures of clients' connections in a row after which a server gets no new ones for eject_ms, proxy mode: a failed connect, or the server's end before its first byte to a client that had sent something; 0 is never.",
      ),
    eject_ms: milliseconds
      .min(1)
      .default(30_000)
      .describe("Milliseconds for which eject_after keeps a server out."),
    max_ejected_percent: z
      .int()
      .min(1)
      .max(100)
      .default(50)
      .describe(
        "Share of a backend's servers that may be out by eject_after at once, in percent, rounded down; below 100 the last server that takes connections stays.",
      ),
    servers: z.record(name, serverSchema).default({}).describe("The servers, by name."),
  })
  .describe("A pool of servers.");

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
      .array(cidr)
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

const flowTimeoutsSchema = z
  .strictObject({
    syn_ms: flowLifetime
      .default(30_000)
      .describe("Milliseconds a TCP flow lives whose handshake is not finished."),
    established_ms: flowLifetime
      .default(7_440_000)
      .describe("Milliseconds without a packet after which an established TCP flow ends."),
    fin_ms: flowLifetime
      .default(120_000)
      .describe(
        "Milliseconds without a packet after which a TCP flow ends of which one side has sent its FIN, passthrough mode.",
      ),
    dsr_fin_ms: flowLifetime
      .default(10_000)
      .describe(
        "Milliseconds without a packet after which a TCP flow ends whose client has sent its FIN, dsr mode, where the server's is not seen.",
      ),
    closed_ms: flowLifetime
      .default(60_000)
      .describe(
        "Milliseconds without a packet for which a TCP flow is remembered after both FINs or a valid reset; it no longer counts as open.",
      ),
    udp_ms: flowLifetime
      .default(30_000)
      .describe(
        "Milliseconds without a packet after which a UDP flow ends that is no conversation yet: the client has not gone on after an answer, in dsr mode not sent twice.",
      ),
    udp_stream_ms: flowLifetime
      .default(300_000)
      .describe("Milliseconds without a packet after which a UDP conversation ends."),
  })
  .describe("How long flows live after their last packet, in passthrough and dsr mode.");

export const configSchema = z
  .strictObject({
    mode: modeSchema.default("proxy").describe(modeSchema.description as string),
    engine: engineSchema.default("auto").describe(engineSchema.description as string),
    interfaces: interfaceNames
      .default([])
      .describe(
        "Where passthrough and dsr mode listen for packets, by name; empty is every Ethernet link that is up.",
      ),
    include: z
      .union([path, z.array(path).max(64)])
      .register(wording, {
        type: "path or list of paths",
        expected: 'a path or at most 64 of them, such as ["conf.d/*.toml"]',
      })
      .optional()
      .describe(
        "Further files that are part of this one, relative to its folder; * and ? in a file's name stand for any characters and for one. What is in two files is an error. In the main file alone; not for programs, which hand over one object.",
      ),
    frontends: z.record(name, frontendSchema).describe("Where clients connect, by name; at least one."),
    backends: z.record(name, backendSchema).describe("The pools of servers, by name."),
    proxy: z
      .strictObject({
        workers: workers
          .default(0)
          .describe(
            "Data-plane threads; 0 is one for each core, or as many as a CPU quota of the cgroup allows.",
          ),
      })
      .prefault({})
      .describe("Settings of proxy mode."),
    passthrough: z
      .strictObject({
        connection_tracker_capacity: z
          .int()
          .min(1)
          .max(0x1000_0000)
          .default(1_048_576)
          .describe("Flows remembered at once."),
        workers: workers
          .default(0)
          .describe(
            "Data-plane threads; 0 is one for each core, or as many as a CPU quota of the cgroup allows.",
          ),
        stats_update_frequency: z
          .int()
          .min(0)
          .max(86_400)
          .default(5)
          .describe("Seconds; accepted for compatibility, no effect: counters are live."),
        port_range: portRange
          .default("33768-61000")
          .describe("Source ports used towards the servers in passthrough mode, inclusive."),
        nat_addresses: natAddresses
          .default([])
          .describe(
            "Source addresses used towards the servers in passthrough mode, each with the whole port_range; addresses of this host. A frontend of whose family there is none uses its own.",
          ),
        timeouts: flowTimeoutsSchema.prefault({}),
      })
      .prefault({})
      .describe("Settings of passthrough and of dsr mode."),
    dsr: z
      .strictObject({
        method: dsrMethodSchema
          .default("rewrite")
          .describe(
            "rewrite changes the destination address to the server's; l2 changes only the MAC address, servers hold the listening address on loopback.",
          ),
        connection_tracking: connectionTrackingSchema
          .default("full")
          .describe(
            "Which flows dsr mode remembers: full every one; minimal those alone that a change of servers would send elsewhere. With minimal connections are not counted.",
          ),
      })
      .prefault({})
      .describe("Settings of dsr mode alone."),
    xdp: z
      .strictObject({
        mode: xdpModeSchema
          .default("native")
          .describe(
            "Where XDP programs run: native in the network driver; generic in the kernel behind it, on every interface but slower than engine tc, for trials.",
          ),
      })
      .prefault({})
      .describe('Settings of the engines "xdp" and "af_xdp".'),
    resolver: resolverSchema.prefault({}),
    limits: z
      .strictObject({
        max_connections: count
          .default(0)
          .describe(
            "Connections open at once over all frontends, proxy and passthrough mode; 0 is no limit.",
          ),
        max_connections_per_client: count
          .default(0)
          .describe("Connections open at once from one client, proxy mode; 0 is no limit."),
        client_ipv6_prefix: z
          .int()
          .min(1)
          .max(128)
          .default(64)
          .describe(
            "First bits of an IPv6 address that make one client for max_connections_per_client and max_connection_rate_per_client, proxy mode; an IPv4 address is a client by itself.",
          ),
      })
      .prefault({})
      .describe("Limits over all frontends."),
    shutdown: z
      .strictObject({
        drain_timeout_ms: milliseconds
          .default(30_000)
          .describe("Milliseconds that open connections get to end after SIGTERM or SIGINT."),
        delay_ms: milliseconds
          .default(0)
          .describe(
            "Milliseconds after SIGTERM or SIGINT for which connections are still accepted while /readyz answers 503, so that whoever sends them can go elsewhere; drain_timeout_ms begins after it.",
          ),
        keep_forwarding: z
          .boolean()
          .register(wording, { type: "boolean", expected: "true or false" })
          .default(false)
          .describe(
            "Whether the kernel goes on forwarding, also new connections, after SIGTERM or SIGINT until the next start or convey cleanup; engines tc and xdp.",
          ),
      })
      .prefault({})
      .describe("How the program ends."),
    reload: z
      .strictObject({
        watch: z
          .boolean()
          .register(wording, { type: "boolean", expected: "true or false" })
          .default(true)
          .describe(
            "Whether this file is read again as soon as it changes; if not, on SIGHUP, convey reload and requests alone. With convey reload --confirm set it to false, or the change is in service before the command comes.",
          ),
      })
      .prefault({})
      .describe("How the file is read again."),
    stats: z
      .strictObject({
        port: statsPort.describe(
          "Port of the HTTP server for /stats, /healthz and /readyz; 0 lets the kernel choose.",
        ),
        bind: ipAddress.default("127.0.0.1").describe("Address of the HTTP server."),
        token_file: path
          .optional()
          .describe(
            "File with the token that requests must carry which change something or, where other machines reach the server, read.",
          ),
        hosts: z
          .array(hostName)
          .register(wording, {
            type: "list of names",
            expected: 'a list of names, such as ["lb.example.com"]',
          })
          .default([])
          .describe(
            'Further names and addresses that the Host of a request may name, such as a DNS name; "*" is any.',
          ),
        socket_group: z
          .union([z.string().regex(/^[^\s:,/]{1,255}$/), z.int().min(0).max(0xffff_fffe)])
          .register(wording, {
            type: "name or number of a group",
            expected: 'a group of this host, such as "adm" or 1000',
          })
          .optional()
          .describe(
            "Group whose members may use the socket by which commands reach the running one; its owner alone unless given.",
          ),
      })
      .optional()
      .describe("The HTTP server; without this table there is none."),
    log: z
      .strictObject({
        level: logLevelSchema.default("info").describe("The least severe messages that are logged."),
        connections: z
          .union([z.enum(["off", "errors", "all"]), z.number().gt(0).max(1)])
          .register(wording, {
            type: '"off", "errors", "all" or number',
            expected: '"off", "errors", "all", or a share above 0 and up to 1',
          })
          .default("off")
          .describe(
            "Which connections get a line when they have ended: none, those that ended badly, all, or with a number these and that share of the others. Proxy mode.",
          ),
        connections_file: path
          .optional()
          .describe(
            "File for these lines instead of standard error; opened again on SIGUSR1. A relative path begins at the working directory.",
          ),
      })
      .prefault({})
      .describe("The log, on standard error."),
  })
  .describe("Configuration of Convey.");

/** What a user may write: defaults may be left out. */
export type ConfigInput = z.input<typeof configSchema>;
/** A checked configuration with every default applied. */
export type Config = z.output<typeof configSchema>;
export type Mode = Config["mode"];
export type Engine = z.output<typeof engineSchema>;
export type Protocol = Config["frontends"][string]["protocol"];
export type Balance = z.output<typeof balanceSchema>;
export type DsrMethod = z.output<typeof dsrMethodSchema>;
export type ConnectionTracking = z.output<typeof connectionTrackingSchema>;
export type XdpMode = z.output<typeof xdpModeSchema>;
export type SendProxy = z.output<typeof sendProxySchema>;
export type LogLevel = z.output<typeof logLevelSchema>;
export type FrontendConfig = z.output<typeof frontendSchema>;
export type BackendConfig = z.output<typeof backendSchema>;
/** What a user may write of a server. */
export type ServerInput = NonNullable<ConfigInput["backends"][string]["servers"]>[string];
export type ServerConfig = z.output<typeof serverSchema>;

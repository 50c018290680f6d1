/**
 * The configuration as people write it (TOML or an object of the same shape), and the one place where
 * defaults are applied. Durations carry their unit in the name; keys without one are seconds, as in 0.3.5.
 *
 * The descriptions are the reference: `convey schema`, the editor's pop-ups and the table of samples/README.md are made
 * from them. What a value must be is told by `wording` where the schema's own type does not say it.
 */
import { z } from "zod";
import { backendSchema, type serverSchema } from "./backend-schema.ts";
import { frontendSchema } from "./frontend-schema.ts";
import {
  type balanceSchema,
  connectionTrackingSchema,
  count,
  dsrMethodSchema,
  engineSchema,
  flowLifetime,
  hostName,
  interfaceNames,
  ipAddress,
  logLevelSchema,
  milliseconds,
  modeSchema,
  name,
  natAddresses,
  path,
  portRange,
  resolverAddress,
  type sendProxySchema,
  statsPort,
  workers,
  xdpModeSchema,
} from "./values.ts";
import { wording } from "./wording.ts";

export { backendSchema, serverSchema } from "./backend-schema.ts";
export { frontendSchema, UDP_DEFAULTS } from "./frontend-schema.ts";
export {
  balanceSchema,
  checkSchema,
  connectionTrackingSchema,
  dsrMethodSchema,
  engineSchema,
  logLevelSchema,
  modeSchema,
  protocolSchema,
  resolveSchema,
  sendProxySchema,
  xdpModeSchema,
} from "./values.ts";
export { wording };

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

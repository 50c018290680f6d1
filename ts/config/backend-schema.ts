/** A backend and its servers. */
import { z } from "zod";
import { healthCheckSchema } from "./health-check-schema.ts";
import {
  balanceSchema,
  checkSchema,
  count,
  dsrMethodSchema,
  milliseconds,
  name,
  resolveSchema,
  sendProxySchema,
  serverAddress,
  source,
} from "./values.ts";
import { wording } from "./wording.ts";

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

/** The flow table as the API shows it, and which part of it is meant. */
import { z } from "@hono/zod-openapi";

const state = z.enum(["new", "half_open", "established", "closing", "closed"]);

/** Parts of a filter; what is left out is any. */
export const flowFilter = {
  protocol: z.enum(["tcp", "udp"]).optional(),
  client: z.string().optional().openapi({ description: "ip, ip/bits, ip:port or :port" }),
  frontend: z.string().optional(),
  vip: z.string().optional().openapi({ description: "What the client talks to: ip, ip:port or :port" }),
  backend: z.string().optional(),
  server: z.string().optional().openapi({ description: "server or backend/server" }),
  state: state.optional(),
};

const count = z.number().nullable();

export const flowPageSchema = z
  .object({
    flows: z.array(
      z
        .object({
          protocol: z.enum(["tcp", "udp"]),
          client: z.string(),
          frontend: z.string(),
          vip: z.string(),
          server: z.object({ backend: z.string(), name: z.string(), addr: z.string() }).nullable(),
          state,
          waits_for: z.enum(["proxy_header", "client_hello", "server"]).nullable().openapi({
            description:
              "What a new one waits for, proxy mode: the PROXY header, until when client is the proxy in front; its ClientHello; a server, in the queue or before it tries again.",
          }),
          age_ms: count,
          idle_ms: count,
          expires_in_ms: count,
          nat: z.string().nullable(),
          packets: count,
          bytes_tx: count,
          bytes_rx: count,
        })
        .openapi("Flow"),
    ),
    cursor: z.string().nullable().openapi({ description: "Where the list goes on; null: it has ended." }),
    partial: z.string().nullable().openapi({ description: "Why some flows are not listed, in words." }),
  })
  .openapi("FlowPage");

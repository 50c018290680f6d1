/** The body of `GET /stats`, as `ts/control/stats.ts` describes it field by field. More fields may come. */
import { z } from "@hono/zod-openapi";

const count = z.number();
const reasons = z.record(z.string(), count).openapi({ description: "How often, by reason." });
const connections = { total_connections: count.optional(), current_connections: count.optional() };
const counters = { ...connections, bytes_tx: count, bytes_rx: count };

export const serverStatsSchema = z
  .object({
    ...counters,
    addr: z.string(),
    up: z.boolean(),
    ejected_until: z.string().optional(),
    weight: z.number().int(),
    effective_weight: z.number().openapi({
      description:
        "The weight that selection goes by: 0 while it is down or draining and for a backup that waits, a part of its weight in slow start.",
    }),
    backup: z.boolean(),
    draining: z.boolean(),
    origin: z.enum(["file", "runtime"]),
    last_check: z
      .object({
        at: z.string(),
        ok: z.boolean(),
        duration_ms: z.number(),
        cause: z.string(),
        answer: z.string().optional(),
      })
      .nullable(),
    reasons,
  })
  .openapi("ServerStats");

const backendStatsSchema = z
  .object({
    ...counters,
    queue: z
      .object({ waiting: count, total: count, timed_out: count, refused: count })
      .optional()
      .openapi({ description: "Connections that wait for a place; only in proxy mode." }),
    balance: z.string().openapi({ description: "How its servers are chosen, as in the configuration." }),
    servers: z.record(z.string(), z.boolean()).openapi({ description: 'By "ip:port": whether it is up.' }),
    server_details: z.record(z.string(), serverStatsSchema),
  })
  .openapi("BackendStats");

const frontendStatsSchema = z
  .object({
    ...counters,
    address: z.string(),
    backend: z.string(),
    backends: z.array(z.string()).optional().openapi({
      description: "Every backend that it may send to, its own first; only where it routes by ClientHello.",
    }),
    reasons,
  })
  .openapi("FrontendStats");

const packetStats = {
  engine: z.string().optional(),
  engines_refused: z
    .array(
      z.object({
        engine: z.string(),
        kind: z.string(),
        errno: z.number().int().optional(),
        cause: z.string(),
        remedy: z.string(),
      }),
    )
    .optional(),
  worker_panics: count.optional(),
  guard: z.string().optional(),
  interfaces: z.array(z.string()).optional(),
  flows: z.object({ current: count, capacity: count }).optional(),
  packets: z
    .object({
      forwarded: count,
      replied: reasons,
      answered: reasons,
      passed: reasons,
      dropped: reasons,
      noted: reasons,
      nat_port_probes: reasons,
      guard: z.object({ to_vip: count, from_server: count, icmp_errors: count }).optional(),
    })
    .optional(),
};

export const statsSchema = z
  .object({
    ...connections,
    ...packetStats,
    total_bytes_tx: count,
    total_bytes_rx: count,
    backends: z.record(z.string(), backendStatsSchema),
    frontends: z.record(z.string(), frontendStatsSchema),
    version: z.string(),
    uptime_seconds: count,
    mode: z.enum(["proxy", "passthrough", "dsr"]),
    config_version: z.number().int(),
    draining: z.boolean(),
    reasons,
    lost_log_lines: count,
    last_reload: z
      .object({
        at: z.string(),
        result: z.enum(["applied", "unchanged", "rejected", "confirmed", "rolled_back"]),
        source: z.string(),
        message: z.string(),
        confirm_by: z.string().optional(),
        file_differs: z.literal(true).optional(),
      })
      .nullable(),
    return_path_visible: z.literal(false).optional(),
  })
  .openapi("Stats");

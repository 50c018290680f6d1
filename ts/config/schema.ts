/**
 * The configuration as people write it (TOML or an object of the same shape), and the one place where
 * defaults are applied. Durations carry their unit in the name; keys without one are seconds, as in 0.3.5.
 */
import { z } from "zod";

const socketAddress = z.string(); // TODO(config): "ip:port" check with a message
const count = z.int().min(0).max(0xffff_ffff);
const milliseconds = z.int().min(0).max(86_400_000);

export const modeSchema = z.enum(["proxy", "passthrough", "dsr"]);

export const serverSchema = z.strictObject({
  addr: socketAddress,
  weight: z.int().min(0).max(65535).default(1),
  max_connections: count.default(0),
});

export const backendSchema = z.strictObject({
  health_check_interval: z.int().min(0).max(86_400).default(5),
  health_check_timeout_ms: milliseconds.min(1).default(2000),
  health_check_fast_interval_ms: milliseconds.min(1).default(1000),
  health_check_rise: z.int().min(1).max(1000).default(2),
  health_check_fall: z.int().min(1).max(1000).default(3),
  connect_timeout_ms: milliseconds.min(1).default(3000),
  retries: z.int().min(0).max(100).default(2),
  idle_timeout_ms: milliseconds.default(300_000),
  max_duration_ms: milliseconds.default(0),
  servers: z.record(z.string(), serverSchema).default({}),
});

export const frontendSchema = z.strictObject({
  listen_addr: socketAddress,
  backend: z.string(),
  protocol: z.enum(["tcp", "udp"]).default("tcp"),
  max_connections: count.default(0),
});

export const configSchema = z.strictObject({
  mode: modeSchema.default("proxy"),
  frontends: z.record(z.string(), frontendSchema),
  backends: z.record(z.string(), backendSchema),
  proxy: z.strictObject({ workers: z.int().min(0).max(1024).default(0) }).prefault({}),
  limits: z
    .strictObject({ max_connections: count.default(0), max_connections_per_client: count.default(0) })
    .prefault({}),
  shutdown: z.strictObject({ drain_timeout_ms: milliseconds.default(30_000) }).prefault({}),
  stats: z
    .strictObject({
      port: z.union([z.string(), z.int()]),
      bind: z.string().default("127.0.0.1"),
      token_file: z.string().optional(),
    })
    .optional(),
  log: z
    .strictObject({ level: z.enum(["trace", "debug", "info", "warn", "error", "silent"]).default("info") })
    .prefault({}),
});

/** What a user may write: defaults may be left out. */
export type ConfigInput = z.input<typeof configSchema>;
/** A checked configuration with every default applied. */
export type Config = z.output<typeof configSchema>;
export type Mode = z.output<typeof modeSchema>;

/** A server as the API shows it and as it takes it. */
import { z } from "@hono/zod-openapi";
import { drainResultSchema } from "./change.ts";
import { serverStatsSchema } from "./stats.ts";

const weight = z.number().int().min(0).max(65_535);
const milliseconds = z.number().int().min(0).max(86_400_000);

/** Names of the path: what a segment of a URL says once it is decoded. */
export const serverParams = z.object({ backend: z.string(), server: z.string() });
export const backendParams = z.object({ backend: z.string() });

export const serverSchema = serverStatsSchema
  .extend({
    backend: z.string(),
    name: z.string(),
    drain: drainResultSchema
      .optional()
      .openapi({ description: "How the drain ended, where the request waited for it." }),
  })
  .openapi("Server");

export const serverChangeSchema = z
  .strictObject({
    weight: weight.nullable().optional().openapi({ description: "null goes back to the configured one." }),
    state: z.enum(["enabled", "draining"]).optional().openapi({
      description: "draining: no new connections, open ones may end; enabled: as the checks say.",
    }),
    deadline_ms: milliseconds
      .optional()
      .openapi({ description: "How long open connections get; shutdown.drain_timeout_ms unless given." }),
    jitter_ms: milliseconds.optional().openapi({
      description: "The drain begins after a random part of this, so that several do not at once.",
    }),
  })
  .openapi("ServerChange");

const settings = {
  addr: z.string(),
  resolve: z.enum(["all", "first"]).optional().openapi({
    description: "Where addr is a name: every address a server of its own, or one of them.",
  }),
  weight: weight.optional(),
  max_connections: z.number().int().min(0).optional(),
};

export const newServerSchema = z
  .strictObject({ name: z.string().min(1).max(255), ...settings })
  .openapi("NewServer");

export const newServersSchema = z.array(newServerSchema).openapi("NewServers");

/** `?wait=true`: the answer comes when it is done. */
export const waitQuery = z.strictObject({
  wait: z
    .enum(["true", "false"])
    .default("false")
    .openapi({ description: "Whether the answer waits for the end of the drain." }),
});

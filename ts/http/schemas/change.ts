/** What a change of the configuration or of servers did, and what a plan says one would do. */
import { z } from "@hono/zod-openapi";
import { problemSchema } from "./error.ts";

export const changeSchema = z
  .union([
    z.object({
      kind: z.enum(["added", "removed"]),
      what: z.enum(["frontend", "backend", "server"]),
      name: z.string(),
    }),
    z.object({
      kind: z.literal("changed"),
      path: z.string().openapi({ description: "Key path in the configuration." }),
      server: z
        .string()
        .optional()
        .openapi({ description: "backend/server, where it is one of its settings." }),
      from: z.any(),
      to: z.any(),
    }),
  ])
  .openapi("Change");

const changeResult = {
  result: z.enum(["applied", "unchanged"]),
  message: z.string().openapi({ description: "What changed, for people." }),
  changes: z.array(changeSchema),
  warnings: z.array(problemSchema),
};

export const changeResultSchema = z.object(changeResult).openapi("ChangeResult");

export const reloadResultSchema = z
  .object({
    ...changeResult,
    confirm_by: z
      .string()
      .optional()
      .openapi({ description: "When it is rolled back unless it is confirmed before; absent otherwise." }),
  })
  .openapi("ReloadResult");

export const drainResultSchema = z
  .object({
    drained: z.boolean().openapi({ description: "Whether no connection was left." }),
    connections: z
      .number()
      .optional()
      .openapi({ description: "Still open; absent where they are not counted." }),
  })
  .openapi("DrainResult");

export const removeResultSchema = z
  .object({ ...changeResult, drain: drainResultSchema.optional() })
  .openapi("RemoveResult");

const touchedSchema = z
  .object({
    name: z.string(),
    address: z.string(),
    change: z.enum(["removed", "moved"]),
    current_connections: z.number().optional().openapi({ description: "Proxy mode." }),
    current_flows: z.number().optional().openapi({ description: "Packet modes." }),
  })
  .openapi("Touched");

export const planSchema = z
  .object({
    ok: z.boolean().openapi({ description: "Whether a reload would get as far as putting it in service." }),
    problems: z.array(problemSchema),
    changes: z.array(changeSchema),
    restart_needed: z
      .array(problemSchema)
      .openapi({ description: "Changes that only the next start takes up." }),
    slots: z
      .array(z.object({ backend: z.string(), moved: z.number().int(), slots: z.number().int() }))
      .openapi({ description: "Maglev slots of a backend that would name another server; packet modes." }),
    frontends: z.array(touchedSchema).openapi({ description: "Those that would go or listen elsewhere." }),
    servers: z.array(touchedSchema).openapi({ description: "Those that would go or have another address." }),
    partial: z.string().nullable().openapi({ description: "Why flows may be missing from the counts." }),
  })
  .openapi("Plan");

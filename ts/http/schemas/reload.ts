/** What a reload did. */
import { z } from "@hono/zod-openapi";
import { problemSchema } from "./error.ts";

export const reloadSchema = z
  .object({
    result: z.enum(["applied", "unchanged"]),
    warnings: z.array(problemSchema),
  })
  .openapi("Reload");

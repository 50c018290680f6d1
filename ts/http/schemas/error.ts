/** The body of every answer that tells of an error, and what may be wrong with a configuration. */
import { z } from "@hono/zod-openapi";

export const problemSchema = z
  .object({
    severity: z.enum(["error", "warning"]),
    path: z.string().openapi({ description: 'Key path; "" for the whole.' }),
    message: z.string(),
    found: z.string().optional(),
    expected: z.string().optional(),
    suggestion: z.string().optional(),
    origin: z.string().optional(),
    file: z.string().optional(),
    line: z.number().int().optional(),
    column: z.number().int().optional(),
  })
  .openapi("Problem");

export const errorSchema = z
  .object({
    error: z.string().openapi({ description: "What went wrong, for people." }),
    code: z.string().openapi({ description: "Stable name of the error, such as NOT_FOUND." }),
    problems: z.array(problemSchema).optional().openapi({ description: "Everything that is wrong." }),
  })
  .openapi("Error");

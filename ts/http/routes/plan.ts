/** `POST /api/v1/plan`: what a reload with this configuration would change; nothing is changed. */
import { z } from "@hono/zod-openapi";
import { MAX_FILE_BYTES } from "../../config/load.ts";
import { Failure } from "../failure.ts";
import { json, route } from "../route.ts";
import { planSchema } from "../schemas/change.ts";

const toml = { schema: z.string().openapi({ description: "A configuration as TOML." }) };

export const plan = route(
  {
    method: "post",
    path: "/api/v1/plan",
    operationId: "plan",
    summary: "What a reload would change: with the file as it is now, or with the configuration in the body.",
    request: {
      query: z.object({
        file: z
          .string()
          .max(255)
          .optional()
          .openapi({ description: "Name of the body's file, for messages." }),
      }),
      body: { content: { "text/plain": toml, "application/toml": toml } },
    },
    responses: { 200: json("What would change, or what is wrong with it.", planSchema) },
  },
  ({ source }) =>
    async (c) => {
      const text = await c.req.text();
      if (text !== "") return c.json(await source.plan({ toml: text, ...c.req.valid("query") }), 200);
      if (source.file === undefined) {
        throw new Failure(409, "the configuration came from no file; send one as the body");
      }
      return c.json(await source.plan({ configFile: source.file }), 200);
    },
  { maxBodyBytes: MAX_FILE_BYTES },
);

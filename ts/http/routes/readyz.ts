/** `GET /readyz`: whether new traffic should be sent here. Anybody may ask, under any name. */
import { z } from "@hono/zod-openapi";
import { Failure } from "../failure.ts";
import { json, route } from "../route.ts";

const readinessSchema = z
  .object({
    status: z.enum(["ready", "not ready"]),
    reason: z.string().openapi({ description: 'Why not; "" when ready.' }),
    frontends: z
      .record(z.string(), z.boolean())
      .optional()
      .openapi({ description: "By frontend; absent when one was asked for." }),
  })
  .openapi("Readiness");

export const readyz = route(
  {
    method: "get",
    path: "/readyz",
    operationId: "readyz",
    summary: "Whether new traffic should be sent here, over all frontends or for one.",
    request: { query: z.object({ frontend: z.string().optional() }) },
    responses: { 200: json("Ready.", readinessSchema), 503: json("Not ready.", readinessSchema) },
  },
  ({ source }) =>
    (c) => {
      const { ready, reason, frontends } = source.readiness();
      const name = c.req.valid("query").frontend;
      if (name === undefined) {
        return c.json({ status: told(ready), reason, frontends }, ready ? 200 : 503);
      }
      const one = Object.hasOwn(frontends, name) ? frontends[name] : undefined;
      if (one === undefined) throw new Failure(404, `no frontend is named ${JSON.stringify(name)}`);
      return c.json({ status: told(one), reason: one ? "" : reason }, one ? 200 : 503);
    },
);

const told = (ready: boolean): "ready" | "not ready" => (ready ? "ready" : "not ready");

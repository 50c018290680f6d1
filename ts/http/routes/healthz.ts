/** `GET /healthz`: whether the process answers. Anybody may ask, under any name. */
import { z } from "@hono/zod-openapi";
import { json, route } from "../route.ts";

export const healthz = route(
  {
    method: "get",
    path: "/healthz",
    operationId: "healthz",
    summary: "Whether the process answers.",
    responses: { 200: json("It does.", z.object({ status: z.literal("ok") })) },
  },
  () => (c) => c.json({ status: "ok" } as const, 200),
);

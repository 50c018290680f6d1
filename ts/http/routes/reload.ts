/** `POST /api/v1/reload` reads the configuration again and puts it in service; `…/confirm` keeps what was on trial. */
import { z } from "@hono/zod-openapi";
import { Failure, refused } from "../failure.ts";
import { json, route } from "../route.ts";
import { reloadResultSchema } from "../schemas/change.ts";

const askSchema = z
  .strictObject({
    confirm_ms: z.number().int().min(1).max(86_400_000).optional().openapi({
      description: "It is a trial: rolled back unless it is confirmed within so many milliseconds.",
    }),
  })
  .openapi("ReloadRequest");

export const reload = route(
  {
    method: "post",
    path: "/api/v1/reload",
    operationId: "reload",
    summary: "Read the configuration file again. What is invalid is refused, and the old one serves on.",
    request: { body: { content: { "application/json": { schema: askSchema } } } },
    responses: { 200: json("It is in service, or says the same as before.", reloadResultSchema) },
  },
  ({ source }) =>
    async (c) => {
      if (source.file === undefined) throw new Failure(409, "the configuration came from no file");
      const { confirm_ms: confirmMs } = c.req.valid("json");
      try {
        return c.json(await source.reload(confirmMs === undefined ? {} : { confirmMs }), 200);
      } catch (error) {
        throw refused(error, () => 422);
      }
    },
);

export const confirmReload = route(
  {
    method: "post",
    path: "/api/v1/reload/confirm",
    operationId: "confirmReload",
    summary: "Keep the configuration that is on trial.",
    responses: { 200: json("It stays in service.", reloadResultSchema) },
  },
  ({ source }) =>
    async (c) => {
      try {
        return c.json(await source.confirmReload(), 200);
      } catch (error) {
        throw refused(error, (code) => (code === "NOT_FOUND" ? 409 : 503));
      }
    },
);

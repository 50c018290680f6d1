/** `DELETE /api/v1/servers/{backend}/{server}`. */
import { z } from "@hono/zod-openapi";
import { patiently } from "../patience.ts";
import { json, route } from "../route.ts";
import { removeResultSchema } from "../schemas/change.ts";
import { serverParams, waitQuery } from "../schemas/server.ts";
import { oneServer } from "../servers.ts";

const query = waitQuery.extend({
  deadline_ms: z.coerce
    .number()
    .int()
    .min(0)
    .max(86_400_000)
    .optional()
    .openapi({ description: "Drain it first, for at most so long. Without it, open connections go on." }),
});

export const removeServer = route(
  {
    method: "delete",
    path: "/api/v1/servers/{backend}/{server}",
    operationId: "removeServer",
    summary:
      "Remove a server at run time; it stays away over reloads until the file's own entry for it changes.",
    request: { params: serverParams, query },
    responses: {
      200: json("It is gone, or why it stays.", removeResultSchema),
      202: json(
        "It is drained first; events tell when it is gone.",
        z.object({ result: z.literal("draining"), message: z.string() }),
      ),
    },
  },
  ({ source, places }) =>
    async (c) => {
      const { backend, server } = c.req.valid("param");
      const { deadline_ms: deadlineMs, wait } = c.req.valid("query");
      oneServer(source, backend, server);
      const name = `${backend}/${server}`;
      const drains = deadlineMs !== undefined;
      const how = drains ? { deadlineMs } : {};
      const waits = wait === "true" || !drains;
      const done = await patiently(c, places, waits, () => source.removeServer(name, how));
      if (done !== undefined) return c.json(done, 200);
      const message = `${name} is removed once it is drained, in ${deadlineMs} ms at the latest`;
      return c.json({ result: "draining" as const, message }, 202);
    },
);

/** What those who look on get: `GET /api/v1/live`, a frame a second, and what is kept of one server. */
import { z } from "@hono/zod-openapi";
import type { ServerHistory } from "../../control/frame.ts";
import { Failure } from "../failure.ts";
import { json, route } from "../route.ts";

const EVENTS = "text/event-stream";

/**
 * Server-sent events "full" and "delta" with a `Frame` as JSON. The idle timeout of connections cannot cut it, since
 * a frame is sent also when nothing has changed; a reader that takes nothing for so long is gone.
 */
export const live = route(
  {
    method: "get",
    path: "/api/v1/live",
    operationId: "live",
    summary: "Everything as server-sent events: a full picture, then once a second what has changed.",
    responses: {
      200: { description: "Events `full` and `delta`.", content: { [EVENTS]: { schema: z.string() } } },
    },
  },
  ({ source }) =>
    (c) => {
      const headers = { "content-type": EVENTS };
      if (c.req.method === "HEAD") return c.body(null, 200, headers);
      const stream = source.live.open();
      if (stream === undefined) {
        throw new Failure(503, "too many look on, or the balancer is closing", {
          headers: { "retry-after": "2" },
        });
      }
      return c.body(stream, 200, headers);
    },
);

const values = z.array(z.number().nullable());
const historySchema = z.object({
  at: z.number(),
  step: z.number(),
  connections: values,
  tx: values,
  rx: values,
  changes: z.array(z.object({ at: z.number(), state: z.enum(["up", "down", "draining"]), why: z.string() })),
}) satisfies z.ZodType<ServerHistory>;

export const serverHistory = route(
  {
    method: "get",
    path: "/api/v1/live/servers/{backend}/{server}",
    operationId: "serverHistory",
    summary:
      "Rates of one server over 15 minutes, and the latest changes of its state, in seconds of uptime.",
    request: { params: z.object({ backend: z.string(), server: z.string() }) },
    responses: { 200: json("What is kept of it.", historySchema) },
  },
  ({ source }) =>
    (c) => {
      const { backend, server } = c.req.valid("param");
      const history = source.live.history(`${backend}/${server}`);
      if (history === undefined)
        throw new Failure(404, `no server is named ${JSON.stringify(`${backend}/${server}`)}`);
      return c.json(history, 200);
    },
);

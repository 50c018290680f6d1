/** `GET /api/v1/events`: what happens, as it happens. */
import { z } from "@hono/zod-openapi";
import { eventStream } from "../event-stream.ts";
import { route } from "../route.ts";

export const events = route(
  {
    method: "get",
    path: "/api/v1/events",
    operationId: "events",
    summary:
      "Events from now on, or after Last-Event-ID: health, reloads, drains, weights, servers, engine. A reader that is too slow loses the oldest and gets an event `dropped` with their count.",
    request: {
      headers: z.object({
        "Last-Event-ID": z.string().optional().openapi({ description: "The id of the last event seen." }),
      }),
    },
    responses: {
      200: {
        description: "Server-sent events: `id`, `event` (the type), `data` (JSON).",
        content: { "text/event-stream": { schema: z.string() } },
      },
    },
  },
  ({ source, places }) =>
    (c) =>
      eventStream(c, places, () => source.events().read(c.req.header("last-event-id"))) as never,
);

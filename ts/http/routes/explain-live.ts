/** `GET /api/v1/explain/live`: decisions as they are made, by the code that forwards. */
import { z } from "@hono/zod-openapi";
import type { LiveDecision } from "../../control/live.ts";
import { eventStream, type Message } from "../event-stream.ts";
import { refused } from "../failure.ts";
import { route } from "../route.ts";
import { flowFilter } from "../schemas/flow.ts";

export const explainLive = route(
  {
    method: "get",
    path: "/api/v1/explain/live",
    operationId: "explainLive",
    summary:
      "Decisions on the packets, in proxy mode the new connections, that the filter takes, from now on: events `decision` with `{at, explanation, lost}`.",
    request: {
      // Strict: a misspelt part of the filter would watch everything.
      query: z.strictObject({
        ...flowFilter,
        duration_ms: z.coerce.number().int().min(1).max(600_000).optional(),
        count: z.coerce.number().int().min(1).max(100_000).optional(),
      }),
    },
    responses: {
      200: {
        description: "Server-sent events, until the time or the count is over.",
        content: { "text/event-stream": { schema: z.string() } },
      },
    },
  },
  ({ source, places }) =>
    (c) => {
      const { duration_ms: durationMs, count, ...filter } = c.req.valid("query");
      return eventStream(c, places, () => {
        try {
          return decisions(source.explainLive(filter, { durationMs, count }));
        } catch (error) {
          throw refused(error, (code) => (code === "CONFIG_INVALID" ? 400 : 503));
        }
      }) as never;
    },
);

function decisions(live: AsyncIterator<LiveDecision, undefined>): AsyncIterator<Message, undefined> {
  return {
    next: async () => {
      const { done, value } = await live.next();
      return done ? { done, value: undefined } : { done: false, value: { event: "decision", data: value } };
    },
    return: async () => {
      await live.return?.();
      return { done: true, value: undefined };
    },
  };
}

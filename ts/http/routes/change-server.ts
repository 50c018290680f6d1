/** `PATCH /api/v1/servers/{backend}/{server}`: weight and drain of a server. */
import { Failure } from "../failure.ts";
import { patiently } from "../patience.ts";
import { json, route } from "../route.ts";
import { serverChangeSchema, serverParams, serverSchema, waitQuery } from "../schemas/server.ts";
import { findServer, oneServer } from "../servers.ts";

export const changeServer = route(
  {
    method: "patch",
    path: "/api/v1/servers/{backend}/{server}",
    operationId: "changeServer",
    summary: "Set its weight, drain it or end its drain. Answers at once; events tell how a drain goes.",
    request: {
      params: serverParams,
      query: waitQuery,
      body: { required: true, content: { "application/json": { schema: serverChangeSchema } } },
    },
    responses: { 200: json("The server as it is then.", serverSchema) },
  },
  ({ source, places }) =>
    async (c) => {
      const { backend, server } = c.req.valid("param");
      const { weight, state, deadline_ms: deadlineMs, jitter_ms: jitterMs } = c.req.valid("json");
      const drains = state === "draining";
      if (weight === undefined && state === undefined) {
        throw new Failure(400, "nothing to change: give weight, state or both");
      }
      if (!drains && (deadlineMs !== undefined || jitterMs !== undefined)) {
        throw new Failure(400, 'deadline_ms and jitter_ms are for state "draining"');
      }
      const before = oneServer(source, backend, server);
      const name = `${backend}/${server}`;
      if (weight !== undefined) source.setWeight(name, weight);
      if (state === "enabled") source.enable(name);
      if (!drains) return c.json(oneServer(source, backend, server), 200);
      const how = {
        ...(deadlineMs === undefined ? {} : { deadlineMs }),
        ...(jitterMs === undefined ? {} : { jitterMs }),
      };
      const wait = c.req.valid("query").wait === "true";
      const drain = await patiently(c, places, wait, () => source.drain(name, how));
      // It may have been removed while its connections were waited for.
      const now = findServer(source, backend, server) ?? before;
      return c.json({ ...now, ...(drain === undefined ? {} : { drain }) }, 200);
    },
);

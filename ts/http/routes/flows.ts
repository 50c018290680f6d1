/** `GET` and `DELETE /api/v1/flows`: the live flow table; in proxy mode flows are the open connections. */
import { z } from "@hono/zod-openapi";
import { refused } from "../failure.ts";
import { json, route } from "../route.ts";
import { flowFilter, flowPageSchema } from "../schemas/flow.ts";

/** Queries are strict: a misspelt part of a filter would end everything. What is wrong with a filter is wrong with the request. */
const asked = (error: unknown) =>
  refused(error, (code) => (code === "CONFIG_INVALID" ? 400 : code === "CLOSED" ? 503 : 500));

export const flows = route(
  {
    method: "get",
    path: "/api/v1/flows",
    operationId: "flows",
    summary: "The flow table, page by page: ask again with the cursor until it is null.",
    request: {
      query: z.strictObject({
        ...flowFilter,
        limit: z.coerce.number().int().min(1).max(10_000).optional(),
        cursor: z.string().optional(),
      }),
    },
    responses: { 200: json("A part of the flows.", flowPageSchema) },
  },
  ({ source }) =>
    async (c) => {
      const { limit, cursor, ...filter } = c.req.valid("query");
      try {
        return c.json(await source.flows(filter, { limit, cursor }), 200);
      } catch (error) {
        throw asked(error);
      }
    },
);

export const killFlows = route(
  {
    method: "delete",
    path: "/api/v1/flows",
    operationId: "killFlows",
    summary:
      "End one flow, named by protocol, client and vip; with all=true every one that the filter takes.",
    request: { query: z.strictObject({ ...flowFilter, all: z.enum(["true", "false"]).default("false") }) },
    responses: { 200: json("They have ended.", z.object({ killed: z.number().int() })) },
  },
  ({ source }) =>
    async (c) => {
      const { all, ...filter } = c.req.valid("query");
      try {
        return c.json(await source.killFlows({ ...filter, all: all === "true" }), 200);
      } catch (error) {
        throw asked(error);
      }
    },
);

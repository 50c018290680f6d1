/** `GET /stats` and, under the API's roof, `GET /api/v1/stats`: every counter, read now. */
import { json, route } from "../route.ts";
import { statsSchema } from "../schemas/stats.ts";

const contract = {
  method: "get",
  summary: "Every counter, and the state of every server.",
  responses: { 200: json("Counters and states, read now.", statsSchema) },
} as const;

export const stats = route({ ...contract, path: "/stats", operationId: "stats" }, ({ source }) => (c) => {
  return c.json(source.stats(), 200);
});

export const apiStats = route(
  { ...contract, path: "/api/v1/stats", operationId: "apiStats" },
  ({ source }) =>
    (c) =>
      c.json(source.stats(), 200),
);

/** `GET /metrics`: for Prometheus and whatever scrapes as it does. */
import { accepts } from "hono/accepts";
import { z } from "zod";
import { CONTENT_TYPES } from "../../metrics/family.ts";
import { route } from "../route.ts";

const OPENMETRICS = "application/openmetrics-text";

const text = { schema: z.string() };

export const metrics = route(
  {
    method: "get",
    path: "/metrics",
    operationId: "metrics",
    summary: "Every metric; as OpenMetrics for those who prefer it to text, as Prometheus does.",
    responses: { 200: { description: "Metrics.", content: { "text/plain": text, [OPENMETRICS]: text } } },
  },
  ({ source }) =>
    async (c) => {
      const wanted = accepts(c, {
        header: "Accept",
        supports: [OPENMETRICS, "text/plain"],
        default: "text/plain",
      });
      const format = wanted === OPENMETRICS ? "openmetrics" : "text";
      return c.body(await source.metrics(format), 200, { "content-type": CONTENT_TYPES[format] });
    },
);

/** `GET /api/v1/openapi.json`: the contract of all routes as a document for tools. */
import { z } from "@hono/zod-openapi";
import { json, route } from "../route.ts";

export const openapi = route(
  {
    method: "get",
    path: "/api/v1/openapi.json",
    operationId: "openapi",
    summary: "This description of the API.",
    responses: { 200: json("An OpenAPI document.", z.record(z.string(), z.any())) },
  },
  () => async (c) => {
    // It describes this route too.
    const { openapiDocument } = await import("../document.ts");
    return c.json(openapiDocument() as unknown as Record<string, unknown>, 200);
  },
);

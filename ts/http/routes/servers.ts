/** `GET /api/v1/servers` and `GET /api/v1/servers/{backend}/{server}`. */
import { z } from "@hono/zod-openapi";
import { json, route } from "../route.ts";
import { serverParams, serverSchema } from "../schemas/server.ts";
import { allServers, oneServer } from "../servers.ts";

export const servers = route(
  {
    method: "get",
    path: "/api/v1/servers",
    operationId: "servers",
    summary: "Every server of every backend.",
    responses: { 200: json("The servers.", z.object({ servers: z.array(serverSchema) })) },
  },
  ({ source }) =>
    (c) =>
      c.json({ servers: allServers(source) }, 200),
);

export const server = route(
  {
    method: "get",
    path: "/api/v1/servers/{backend}/{server}",
    operationId: "server",
    summary: "One server.",
    request: { params: serverParams },
    responses: { 200: json("The server.", serverSchema) },
  },
  ({ source }) =>
    (c) => {
      const { backend, server: name } = c.req.valid("param");
      return c.json(oneServer(source, backend, name), 200);
    },
);

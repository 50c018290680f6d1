/** `POST` and `PUT /api/v1/backends/{backend}/servers`: the servers of a backend, changed at run time. */
import { json, route } from "../route.ts";
import { changeResultSchema } from "../schemas/change.ts";
import { backendParams, newServerSchema, newServersSchema } from "../schemas/server.ts";

const path = "/api/v1/backends/{backend}/servers";

export const addServer = route(
  {
    method: "post",
    path,
    operationId: "addServer",
    summary:
      "Add a server; it stays over reloads until it is removed, its backend goes or the file names one like it.",
    request: {
      params: backendParams,
      body: { required: true, content: { "application/json": { schema: newServerSchema } } },
    },
    responses: { 201: json("It is in service.", changeResultSchema) },
  },
  ({ source }) =>
    async (c) =>
      c.json(await source.addServer(c.req.valid("param").backend, c.req.valid("json")), 201),
);

export const setServers = route(
  {
    method: "put",
    path,
    operationId: "setServers",
    summary:
      "Make these the servers of a backend: the others are removed, those that are the same not touched.",
    request: {
      params: backendParams,
      body: { required: true, content: { "application/json": { schema: newServersSchema } } },
    },
    responses: { 200: json("They are in service.", changeResultSchema) },
  },
  ({ source }) =>
    async (c) =>
      c.json(await source.setServers(c.req.valid("param").backend, c.req.valid("json")), 200),
  { maxBodyBytes: 1024 * 1024 },
);

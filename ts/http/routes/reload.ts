/** `POST /api/v1/reload`: reads the configuration again and puts it in service. */
import { Failure, refused } from "../failure.ts";
import { json, route } from "../route.ts";
import { reloadSchema } from "../schemas/reload.ts";

export const reload = route(
  {
    method: "post",
    path: "/api/v1/reload",
    operationId: "reload",
    summary: "Read the configuration file again. What is invalid is refused, and the old one serves on.",
    responses: { 200: json("It is in service, or says the same as before.", reloadSchema) },
  },
  ({ source }) =>
    async (c) => {
      if (source.reload === undefined) throw new Failure(409, "the configuration came from no file");
      try {
        return c.json(await source.reload(), 200);
      } catch (error) {
        throw refused(error, () => 422);
      }
    },
);

/**
 * A route of the HTTP server: its contract (method, path, what it takes and answers, as zod schemas) and the handler
 * that keeps it. Validation, the OpenAPI document and the client's types come from the contract.
 *
 * To add one, write `routes/<name>.ts` and add its line to `ROUTES` in `routes/index.ts`:
 *
 *     export const flows = route(
 *       {
 *         method: "get",
 *         path: "/api/v1/flows",
 *         operationId: "flows",
 *         summary: "The flow table.",
 *         request: { query: z.object({ limit: z.coerce.number().int().min(1).max(10_000).default(100) }) },
 *         responses: { 200: json("The flows.", flowsSchema) },
 *       },
 *       ({ source }) => async (c) => c.json(await source.flows(c.req.valid("query")), 200),
 *     );
 *
 * Who may ask is no matter of the route: the guard wants the token where the listener does, and every method but GET
 * is a change. A handler throws `Failure` for an answer that is an error; a ConveyError gets its status by its code.
 * 404, 405 with `Allow`, HEAD, the errors' shape and the headers of every answer are seen to in `app.ts`.
 */
import type { OpenAPIHono, RouteConfig, RouteHandler } from "@hono/zod-openapi";
import type { MiddlewareHandler } from "hono";
import type { ZodType } from "zod";
import { MAX_BODY_BYTES, readBody } from "./body.ts";
import type { Places } from "./event-stream.ts";
import type { Env } from "./guard.ts";
import type { Access } from "./policy.ts";
import { errorSchema } from "./schemas/error.ts";
import type { AdminSource } from "./source.ts";

/** What a handler has beside the request. */
export type Surroundings = {
  source: AdminSource;
  /** What the listener lets its clients do. */
  access: Access;
  /** How many answers of the listener may take their time. */
  places: Places;
};

type Options = {
  /** Answers what does not fit the contract, instead of the list of problems. */
  onInvalid?: () => Response;
  maxBodyBytes?: number;
};

/** The contract of a route, and the handler for one listener. */
export type Route<R extends RouteConfig = RouteConfig> = {
  readonly config: R;
  readonly maxBodyBytes: number;
  /** `before` runs before anything of the request is validated. */
  readonly attach: (app: OpenAPIHono<Env>, around: Surroundings, before: MiddlewareHandler<Env>[]) => void;
};

/** See the module's head. */
export function route<const P extends string, const R extends Omit<RouteConfig, "path"> & { path: P }>(
  config: R,
  handler: (around: Surroundings) => RouteHandler<R, Env>,
  { onInvalid, maxBodyBytes = MAX_BODY_BYTES }: Options = {},
): Route<R> {
  const hook = onInvalid && ((result: { success: boolean }) => (result.success ? undefined : onInvalid()));
  return {
    config,
    maxBodyBytes,
    attach: (app, around, before) => {
      const whole: RouteConfig = { ...config, responses: { ...config.responses, default: FAILED } };
      app.openAPIRegistry.registerPath(whole);
      // Bodies are read here: the library takes a missing one with a Content-Type for a wrong one, and the reverse.
      const { body, ...request } = config.request ?? {};
      const middleware = [...before, ...(body === undefined ? [] : [readBody(body)])];
      app.openapi({ ...whole, request, middleware, hide: true }, handler(around) as never, hook as never);
    },
  };
}

/** A JSON body of an answer. */
export function json<T extends ZodType>(description: string, schema: T) {
  return { description, content: { "application/json": { schema } } };
}

const FAILED = json("An error.", errorSchema);

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
import type { OpenAPIHono, RouteConfig, RouteHandler, RouteHook } from "@hono/zod-openapi";
import type { ZodType } from "zod";
import type { Env } from "./guard.ts";
import type { Access } from "./policy.ts";
import { errorSchema } from "./schemas/error.ts";
import type { AdminSource } from "./source.ts";

/** What a handler has beside the request. */
export type Surroundings = {
  source: AdminSource;
  /** What the listener lets its clients do. */
  access: Access;
};

/** The contract of a route, and the handler for one listener. */
export type Route<R extends RouteConfig = RouteConfig> = {
  readonly config: R;
  readonly attach: (
    app: OpenAPIHono<Env>,
    around: Surroundings,
    extra: Pick<RouteConfig, "middleware">,
  ) => void;
};

/** See the module's head. `onInvalid` answers what does not fit the contract, instead of the list of problems. */
export function route<const P extends string, const R extends Omit<RouteConfig, "path"> & { path: P }>(
  config: R,
  handler: (around: Surroundings) => RouteHandler<R, Env>,
  onInvalid?: () => Response,
): Route<R> {
  const hook = onInvalid && ((result: { success: boolean }) => (result.success ? undefined : onInvalid()));
  return {
    config,
    attach: (app, around, extra) => {
      const { responses, ...rest } = config;
      const whole = { ...rest, responses: { ...responses, default: FAILED }, ...extra } as unknown as R;
      app.openapi(whole, handler(around) as never, hook as RouteHook<R, Env> as never);
    },
  };
}

/** A JSON body of an answer. */
export function json<T extends ZodType>(description: string, schema: T) {
  return { description, content: { "application/json": { schema } } };
}

const FAILED = json("An error.", errorSchema);

/** The body of a request: how large it may be, and reading it as the contract of its route has it. */
import type { RouteConfig } from "@hono/zod-openapi";
import type { MiddlewareHandler } from "hono";
import { ZodType } from "zod";
import { fail } from "./failure.ts";
import type { Env } from "./guard.ts";
import { misfit } from "./misfit.ts";

type Body = NonNullable<NonNullable<RouteConfig["request"]>["body"]>;

/** Larger bodies are refused, unless the route takes larger ones. */
export const MAX_BODY_BYTES = 64 * 1024;

/** Refuses bodies before anything of them is read. */
export function boundedBody(mostOf: (path: string) => number): MiddlewareHandler<Env> {
  return async (c, next) => {
    const { headers } = c.env.incoming;
    if (headers["transfer-encoding"] !== undefined) return fail(411, "a body needs a Content-Length");
    if (Number(headers["content-length"] ?? 0) > mostOf(c.req.path))
      return fail(413, "the body is too large");
    return await next();
  };
}

/**
 * Judges the body by its Content-Type, and JSON by its schema; handlers find it as `c.req.valid("json")`, text as
 * `c.req.text()`. No body is an empty object where the contract does not require one.
 */
export function readBody({ content, required = false }: Body): MiddlewareHandler<Env> {
  const types = Object.keys(content);
  const media = content["application/json"];
  const schema = media !== undefined && "schema" in media ? media.schema : undefined;
  return async (c, next) => {
    const bytes = Number(c.env.incoming.headers["content-length"] ?? 0);
    if (bytes === 0 && required) return fail(400, `a body is needed: ${types.join(" or ")}`);
    const type = c.req.header("content-type")?.split(";", 1)[0]?.trim().toLowerCase();
    if (bytes > 0 && (type === undefined || !types.includes(type))) {
      const given = type === undefined ? "is missing" : `is ${JSON.stringify(type.slice(0, 100))}`;
      return fail(415, `the Content-Type of the body ${given}; this takes ${types.join(" or ")}`);
    }
    if (!(schema instanceof ZodType)) return await next();
    let value: unknown;
    try {
      value = bytes === 0 ? {} : await c.req.json();
    } catch {
      return fail(400, "the body is no valid JSON");
    }
    const judged = schema.safeParse(value);
    if (!judged.success) return misfit("body", judged.error);
    c.req.addValidatedData("json", judged.data as object);
    return await next();
  };
}

/** What the HTTP server answers, on whichever listener; `Access` says what that one lets its clients do. */
import { OpenAPIHono } from "@hono/zod-openapi";
import type { Hono, MiddlewareHandler } from "hono";
import { HTTPException } from "hono/http-exception";
import type { ZodError } from "zod";
import { Failure, fail, refused } from "./failure.ts";
import { type Env, guard, mayChange } from "./guard.ts";
import type { Access } from "./policy.ts";
import { ROUTES } from "./routes/index.ts";
import type { AdminSource } from "./source.ts";

/** Bodies larger than this are refused. */
const MAX_BODY_BYTES = 64 * 1024;

/** Makes the application for one listener. */
export function createAdminApp(source: AdminSource, access: Access): Hono<Env> {
  const app = new OpenAPIHono<Env>({
    defaultHook: (result) => (result.success ? undefined : misfit(result.target, result.error)),
  });
  app.use(guard(access));
  app.use(boundedBody);
  for (const { config, attach } of ROUTES) {
    attach(app, { source, access }, config.method === "get" ? {} : { middleware: mayChange(access) });
  }
  for (const [path, methods] of methodsByPath()) {
    app.all(path.replaceAll(/\{(.+?)\}/g, ":$1"), () =>
      fail(405, `only ${methods.join(" and ")}`, { headers: { allow: methods.join(", ") } }),
    );
  }
  app.notFound(() => fail(404, NO_SUCH_PAGE));
  app.onError((error) => {
    if (error instanceof Failure) return error.toResponse();
    if (error instanceof HTTPException) return unfit(error);
    try {
      return refused(error).toResponse();
    } catch {
      return fail(500, "internal error");
    }
  });
  return app;
}

const boundedBody: MiddlewareHandler<Env> = async (c, next) => {
  const { headers } = c.env.incoming;
  if (headers["transfer-encoding"] !== undefined) return fail(411, "a body needs a Content-Length");
  if (Number(headers["content-length"] ?? 0) > MAX_BODY_BYTES) return fail(413, "the body is too large");
  return await next();
};

/** What of a request does not fit the route's contract. */
function misfit(target: string, error: ZodError): Response {
  const problems = error.issues.map(({ path, message }) => ({
    severity: "error" as const,
    path: [target === "json" ? "body" : target, ...path.map(String)].join("."),
    message,
  }));
  const [first] = problems;
  return fail(400, first ? `${first.path}: ${first.message}` : "the request is invalid", { problems });
}

/** What the validation throws for a body that is none. */
function unfit({ status }: HTTPException): Response {
  return status === 415
    ? fail(415, "the Content-Type of the body is none that this takes")
    : fail(400, "the body is no valid JSON");
}

function methodsByPath(): Map<string, string[]> {
  const methods = new Map<string, string[]>();
  for (const { path, method } of ROUTES.map(({ config }) => config)) {
    const own = method === "get" ? ["GET", "HEAD"] : [method.toUpperCase()];
    methods.set(path, [...(methods.get(path) ?? []), ...own]);
  }
  return methods;
}

const pages = [...new Set(ROUTES.map(({ config }) => config.path))];
const NO_SUCH_PAGE = `no such page; there are ${pages.slice(0, -1).join(", ")} and ${pages.at(-1)}`;

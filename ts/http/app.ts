/** What the HTTP server answers, on whichever listener; `Access` says what that one lets its clients do. */
import { OpenAPIHono } from "@hono/zod-openapi";
import type { Hono } from "hono";
import { boundedBody, MAX_BODY_BYTES } from "./body.ts";
import { Places } from "./event-stream.ts";
import { Failure, fail, refused } from "./failure.ts";
import { type Env, guard, mayChange } from "./guard.ts";
import { misfit } from "./misfit.ts";
import type { Access } from "./policy.ts";
import { ROUTES } from "./routes/index.ts";
import type { AdminSource } from "./source.ts";

/** Answers of one listener that go on, or wait for something, at once. */
const MAX_STREAMS = 32;

/** Makes the application for one listener. */
export const createAdminApp: (source: AdminSource, access: Access) => Hono<Env> = createApp;

/** The same with the contracts of its routes. */
export function createApp(source: AdminSource, access: Access): OpenAPIHono<Env> {
  const app = new OpenAPIHono<Env>({
    defaultHook: (result) => (result.success ? undefined : misfit(result.target, result.error)),
  });
  app.use(guard(access));
  app.use(boundedBody(mostBytes));
  const places = new Places(MAX_STREAMS);
  for (const { config, attach } of ROUTES) {
    attach(app, { source, access, places }, config.method === "get" ? [] : [mayChange(access)]);
  }
  for (const [path, methods] of methodsByPath()) {
    app.all(path.replaceAll(/\{(.+?)\}/g, ":$1"), () =>
      fail(405, `only ${methods.join(" and ")}`, { headers: { allow: methods.join(", ") } }),
    );
  }
  app.notFound(() => fail(404, NO_SUCH_PAGE));
  app.onError((error) => {
    if (error instanceof Failure) return error.toResponse();
    try {
      return refused(error).toResponse();
    } catch {
      return fail(500, "internal error");
    }
  });
  return app;
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

const large = ROUTES.filter(({ maxBodyBytes }) => maxBodyBytes > MAX_BODY_BYTES).map(
  ({ config, maxBodyBytes }) => ({
    path: new RegExp(`^${config.path.replaceAll(/\{.+?\}/g, "[^/]+")}$`),
    maxBodyBytes,
  }),
);

/** How large a body this path takes. */
function mostBytes(path: string): number {
  return large.find((it) => it.path.test(path))?.maxBodyBytes ?? MAX_BODY_BYTES;
}

/**
 * What the HTTP server answers. Every route refuses a foreign `Host`; with a token configured every route
 * but the two probes wants it.
 */
import { randomBytes } from "node:crypto";
import type { HttpBindings } from "@hono/node-server";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { Explanation } from "../control/explain.ts";
import type { Stats } from "../control/stats.ts";
import { ConveyError } from "../native/index.ts";
import { isAuthorized, isOwnHost } from "./access.ts";
import { renderPage } from "./page.ts";

/** What the routes need of the balancer. */
export type AdminSource = {
  stats: () => Stats;
  /** What would become of a packet; rejects with a ConveyError. */
  explain: (protocol: string, source: string, destination: string) => Promise<Explanation>;
  /** Reads the configuration again; absent when it came from no file. */
  reload?: () => Promise<{ result: string }>;
};

/** Whether new traffic should be sent here, and why not. */
export type Readiness = { ready: boolean; reason: string };

/** Bodies larger than this are refused; no route reads one. */
const MAX_BODY_BYTES = 64 * 1024;

type Env = { Bindings: HttpBindings };

/** Makes the application for a server bound to `bound`. */
export function createAdminApp(
  source: AdminSource,
  access: { bound: string; token: string | undefined },
): Hono<Env> {
  const app = new Hono<Env>();
  const fail = (status: number, error: string, headers: Record<string, string> = {}): Response =>
    Response.json({ error }, { status, headers });

  app.use(async (c, next) => {
    const { headers, socket } = c.env.incoming;
    if (!isOwnHost(headers.host, access.bound, socket.localAddress)) {
      return fail(421, "the Host of this request is not an address of this server");
    }
    const probe = c.req.path === "/healthz" || c.req.path === "/readyz";
    if (!probe && access.token !== undefined && !isAuthorized(headers.authorization, access.token)) {
      return fail(401, "a bearer token is needed", { "www-authenticate": 'Bearer realm="convey"' });
    }
    await next();
    c.res.headers.set("cache-control", "no-store");
    c.res.headers.set("x-content-type-options", "nosniff");
    return undefined;
  });
  app.use(bodyLimit({ maxSize: MAX_BODY_BYTES, onError: () => fail(413, "the body is too large") }));

  app.get("/", (c) => {
    const nonce = randomBytes(16).toString("base64");
    c.header("content-security-policy", contentSecurityPolicy(nonce));
    c.header("referrer-policy", "no-referrer");
    return c.html(renderPage(source.stats(), nonce));
  });
  app.get("/stats", (c) => c.json(source.stats()));
  app.get("/healthz", (c) => c.json({ status: "ok" }));
  app.get("/readyz", (c) => {
    const { ready, reason } = readiness(source.stats());
    return c.json({ status: ready ? "ready" : "not ready", reason }, ready ? 200 : 503);
  });
  app.get("/api/v1/explain", async (c) => {
    const [protocol, from, to] = ["protocol", "source", "destination"].map((name) => c.req.query(name));
    if (protocol === undefined || from === undefined || to === undefined) {
      return fail(
        400,
        "protocol, source and destination are needed, as in ?protocol=tcp&source=ip:port&destination=ip:port",
      );
    }
    try {
      return c.json(await source.explain(protocol, from, to));
    } catch (error) {
      if (!(error instanceof ConveyError)) throw error;
      return c.json({ error: error.message, code: error.code }, error.code === "CONFIG_INVALID" ? 400 : 503);
    }
  });
  app.post("/api/v1/reload", async (c) => {
    // Nothing changes without a token, even where reading needs none.
    if (access.token === undefined) return fail(403, "this server has no token, so it takes no changes");
    const { origin } = c.env.incoming.headers;
    if (origin !== undefined && !isOwnOrigin(origin, c.env.incoming.headers.host)) {
      return fail(403, "the Origin of this request is another site");
    }
    if (source.reload === undefined) return fail(409, "the configuration came from no file");
    try {
      return c.json(await source.reload());
    } catch (error) {
      if (!(error instanceof ConveyError)) throw error;
      return c.json({ error: error.message, code: error.code, problems: error.problems ?? [] }, 422);
    }
  });

  for (const path of ["/", "/stats", "/healthz", "/readyz", "/api/v1/explain"]) {
    app.all(path, () => fail(405, "only GET and HEAD", { allow: "GET, HEAD" }));
  }
  app.all("/api/v1/reload", () => fail(405, "only POST", { allow: "POST" }));
  app.notFound(() => fail(404, "no such page; there are /, /stats, /healthz and /readyz"));
  app.onError(() => fail(500, "internal error"));
  return app;
}

/** Ready: not closing, and at least one frontend has a server that would be given a connection. */
export function readiness(stats: Stats): Readiness {
  if (stats.draining) return { ready: false, reason: "draining" };
  for (const frontend of Object.values(stats.frontends)) {
    const servers = Object.values(stats.backends[frontend.backend]?.server_details ?? {});
    if (servers.some((s) => s.up && !s.draining && s.weight > 0)) return { ready: true, reason: "" };
  }
  return { ready: false, reason: "no frontend has a server that is up" };
}

function isOwnOrigin(origin: string, host: string | undefined): boolean {
  return URL.canParse(origin) && new URL(origin).host === host;
}

function contentSecurityPolicy(nonce: string): string {
  return [
    "default-src 'none'",
    `script-src 'nonce-${nonce}'`,
    `style-src 'nonce-${nonce}'`,
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; ");
}

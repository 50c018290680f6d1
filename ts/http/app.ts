/** What the HTTP server answers, on whichever listener; `Access` says what that one lets its clients do. */
import { randomBytes } from "node:crypto";
import { Hono } from "hono";
import type { Explanation } from "../control/explain.ts";
import type { Readiness } from "../control/readiness.ts";
import type { Stats } from "../control/stats.ts";
import { ConveyError } from "../native/index.ts";
import { type Env, fail, guard } from "./guard.ts";
import { renderPage } from "./page.ts";
import type { Access } from "./policy.ts";

/** What the routes need of the balancer. */
export type AdminSource = {
  stats: () => Stats;
  readiness: () => Readiness;
  /** What would become of a packet; rejects with a ConveyError. */
  explain: (protocol: string, source: string, destination: string) => Promise<Explanation>;
  /** Reads the configuration again; absent when it came from no file. */
  reload?: () => Promise<{ result: string }>;
};

/** Bodies larger than this are refused; no route reads one. */
const MAX_BODY_BYTES = 64 * 1024;

/** Makes the application for one listener. */
export function createAdminApp(source: AdminSource, access: Access): Hono<Env> {
  const app = new Hono<Env>();

  app.use(guard(access));
  app.use(async (c, next) => {
    const { headers } = c.env.incoming;
    if (headers["transfer-encoding"] !== undefined) return fail(411, "a body needs a Content-Length");
    if (Number(headers["content-length"] ?? 0) > MAX_BODY_BYTES) return fail(413, "the body is too large");
    await next();
    return undefined;
  });

  app.get("/", (c) => {
    const nonce = randomBytes(16).toString("base64");
    c.header("content-security-policy", contentSecurityPolicy(nonce));
    c.header("referrer-policy", "no-referrer");
    return c.html(renderPage(source.stats(), nonce));
  });
  app.get("/stats", (c) => c.json(source.stats()));
  app.get("/healthz", (c) => c.json({ status: "ok" }));
  app.get("/readyz", (c) => {
    const { ready, reason, frontends } = source.readiness();
    const name = c.req.query("frontend");
    if (name === undefined) {
      return c.json({ status: ready ? "ready" : "not ready", reason, frontends }, ready ? 200 : 503);
    }
    const one = Object.hasOwn(frontends, name) ? frontends[name] : undefined;
    if (one === undefined) return fail(404, `no frontend is named ${JSON.stringify(name)}`);
    return c.json({ status: one ? "ready" : "not ready", reason: one ? "" : reason }, one ? 200 : 503);
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
    if (access.write === "off") return fail(403, "this server has no token, so it takes no changes");
    const { origin } = c.env.incoming.headers;
    // Other sites' pages cannot reach a listener that is open to changes.
    if (
      access.write === "token" &&
      origin !== undefined &&
      !isOwnOrigin(origin, c.env.incoming.headers.host)
    ) {
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
  app.notFound(() =>
    fail(404, "no such page; there are /, /stats, /healthz, /readyz, /api/v1/explain and /api/v1/reload"),
  );
  app.onError(() => fail(500, "internal error"));
  return app;
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

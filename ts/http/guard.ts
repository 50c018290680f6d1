/** Applies a listener's policy to every request, and sets the headers every answer has. */
import type { IncomingMessage } from "node:http";
import type { HttpBindings } from "@hono/node-server";
import type { MiddlewareHandler } from "hono";
import { isAuthorized } from "./access.ts";
import { fail } from "./failure.ts";
import { type Access, isOwnHost } from "./policy.ts";

export type Env = { Bindings: HttpBindings };

/** Routes for load balancers and service managers, which send what `Host` they like and have no token. */
const PROBES = new Set(["/healthz", "/readyz"]);

/** What is shown of a foreign `Host`. */
const MAX_SHOWN = 100;

export function guard(access: Access): MiddlewareHandler<Env> {
  return async (c, next) => {
    const refusal = PROBES.has(c.req.path) ? undefined : refusalOf(c.env.incoming, access);
    if (refusal === undefined) await next();
    else c.res = refusal;
    // What never changes under its name says so itself.
    if (!c.res.headers.has("cache-control")) c.res.headers.set("cache-control", "no-store");
    c.res.headers.set("x-content-type-options", "nosniff");
  };
}

/** Why a request is not answered, before it is known what it asks for. */
function refusalOf({ headers, socket, method, httpVersionMinor }: IncomingMessage, access: Access) {
  const { host } = headers;
  // HTTP/1.0 may leave it out; a browser never does.
  if (host === undefined && httpVersionMinor > 0) {
    return fail(400, "a request of HTTP/1.1 needs a Host", { headers: { connection: "close" } });
  }
  if (host !== undefined && !isOwnHost(host, access.hosts, socket.localAddress)) {
    const shown = JSON.stringify(host.slice(0, MAX_SHOWN));
    return fail(
      421,
      `the Host ${shown} is no address of this server; stats.hosts lists further names it has`,
    );
  }
  const reads = method === "GET" || method === "HEAD";
  const wanted = access.read === "token" || (!reads && access.write === "token");
  if (!wanted || (access.token !== undefined && isAuthorized(headers.authorization, access.token))) {
    return undefined;
  }
  const refusal = fail(401, "a bearer token is needed");
  refusal.headers.append("www-authenticate", 'Bearer realm="convey"');
  // A browser then asks its user: for a page, not for what a page's script fetches, which has a form of its own.
  const { "sec-fetch-mode": mode } = headers;
  if (mode === undefined || mode === "navigate") {
    refusal.headers.append(
      "www-authenticate",
      'Basic realm="convey: the token is the password", charset="UTF-8"',
    );
  }
  return refusal;
}

/** Refuses changes where the listener takes none, and those that another site's page asks for. */
export function mayChange(access: Access): MiddlewareHandler<Env> {
  return async (c, next) => {
    if (access.write === "off") return fail(403, "this server has no token, so it takes no changes");
    const { origin, host } = c.env.incoming.headers;
    // Other sites' pages cannot reach a listener that is open to changes.
    if (access.write === "token" && origin !== undefined && !isOwnOrigin(origin, host)) {
      return fail(403, "the Origin of this request is another site");
    }
    return await next();
  };
}

function isOwnOrigin(origin: string, host: string | undefined): boolean {
  return URL.canParse(origin) && new URL(origin).host === host;
}

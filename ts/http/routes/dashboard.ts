/** `GET /`, what a person sees, and the script, style and icon that belong to it. */
import { z } from "@hono/zod-openapi";
import { assets } from "../../dashboard/assets.ts";
import { renderShell } from "../../dashboard/shell.tsx";
import { Failure } from "../failure.ts";
import { route } from "../route.ts";

const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join("; ");

const text = { schema: z.string() };

export const page = route(
  {
    method: "get",
    path: "/",
    operationId: "page",
    summary: "The page for people.",
    responses: { 200: { description: "HTML.", content: { "text/html": text } } },
  },
  ({ source, access: { read, write } }) =>
    (c) => {
      c.header("content-security-policy", POLICY);
      c.header("referrer-policy", "no-referrer");
      return c.html(renderShell({ assets: assets(), access: { read, write }, stats: source.stats() }), 200);
    },
);

/** Named after their contents, so they may be kept for good. */
export const asset = route(
  {
    method: "get",
    path: "/assets/{name}",
    operationId: "asset",
    summary: "A part of the page.",
    request: { params: z.object({ name: z.string() }) },
    responses: {
      200: {
        description: "A script, a style sheet or an icon.",
        content: { "text/javascript": text, "text/css": text, "image/svg+xml": text },
      },
    },
  },
  () => (c) => {
    const found = assets().byPath.get(c.req.path);
    if (found === undefined) throw new Failure(404, "no such asset; the page names those that there are");
    const zipped = /\bgzip\b/.test(c.req.header("accept-encoding") ?? "");
    return c.body(zipped ? found.gzipped : found.body, 200, {
      "content-type": found.type,
      "cache-control": "public, max-age=31536000, immutable",
      vary: "accept-encoding",
      ...(zipped ? { "content-encoding": "gzip" } : {}),
    });
  },
);

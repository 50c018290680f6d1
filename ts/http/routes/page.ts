/** `GET /`: what a person sees. */
import { randomBytes } from "node:crypto";
import { z } from "@hono/zod-openapi";
import { renderPage } from "../page.ts";
import { route } from "../route.ts";

export const page = route(
  {
    method: "get",
    path: "/",
    operationId: "page",
    summary: "The page for people.",
    responses: { 200: { description: "HTML.", content: { "text/html": { schema: z.string() } } } },
  },
  ({ source }) =>
    (c) => {
      const nonce = randomBytes(16).toString("base64");
      c.header("content-security-policy", contentSecurityPolicy(nonce));
      c.header("referrer-policy", "no-referrer");
      return c.html(renderPage(source.stats(), nonce), 200);
    },
);

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

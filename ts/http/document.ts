/** The OpenAPI document of the HTTP server, made from the contracts of its routes. */
import { VERSION } from "../control/version.ts";
import { createApp } from "./app.ts";
import { SOCKET_ACCESS } from "./policy.ts";
import type { AdminSource } from "./source.ts";

type Document = ReturnType<ReturnType<typeof createApp>["getOpenAPI31Document"]>;

let made: Document | undefined;

/** Version 3.1. */
export function openapiDocument(): Document {
  if (made !== undefined) return made;
  // Describing the routes asks nothing of a balancer.
  const app = createApp({} as AdminSource, SOCKET_ACCESS);
  app.openAPIRegistry.registerComponent("securitySchemes", "bearer", { type: "http", scheme: "bearer" });
  app.openAPIRegistry.registerComponent("securitySchemes", "basic", {
    type: "http",
    scheme: "basic",
    description: "The token is the password, of any user.",
  });
  made = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "Convey",
      version: VERSION,
      description:
        "What a running Convey answers over its Unix socket, where everybody who may connect may do everything, and over TCP: on loopback changes want the token of stats.token_file, beyond loopback everything but /healthz and /readyz does.",
      license: { name: "MIT" },
    },
    servers: [{ url: "http://127.0.0.1:7000" }],
    security: [{}, { bearer: [] }, { basic: [] }],
  });
  return made;
}

/** Clients that a packet mode cannot serve. */
import { expect, test } from "vitest";
import { configSchema } from "../../../ts/config/schema.ts";
import { unserved } from "../../../ts/config/unserved.ts";

function told(mode: string, top: object = {}, backend: object = {}): string {
  const input = {
    mode,
    ...top,
    frontends: { web: { listen_addr: "192.0.2.1:80", backend: "app" } },
    backends: { app: { ...backend, servers: { one: { addr: "10.0.0.1:80" } } } },
  };
  return unserved(configSchema.parse(input)).join("\n");
}

test("the packet modes tell that the balancer itself is no client, and proxy mode has nothing to tell", () => {
  expect(told("proxy")).toBe("");
  for (const mode of ["passthrough", "dsr"]) {
    expect(told(mode)).toContain(`clients on this host itself are not served in mode ${mode}`);
  }
});

test("a server that cannot be its own client is told where a backend is reached by rewriting", () => {
  const own = "a server cannot be its own client";
  expect(told("passthrough")).not.toContain(own);
  expect(told("dsr", { dsr: { method: "rewrite" } })).toContain(own);
  expect(told("dsr", { dsr: { method: "l2" } })).not.toContain(own);
  expect(told("dsr", { dsr: { method: "l2" } }, { dsr_method: "rewrite" })).toContain(own);
  expect(told("dsr", { dsr: { method: "rewrite" } }, { dsr_method: "l2" })).not.toContain(own);
});

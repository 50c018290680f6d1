import { describe, expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { backendsOf, serverName } from "../../../ts/config/hello-routes.ts";
import { lower } from "../../../ts/config/lower.ts";
import { readiness } from "../../../ts/control/readiness.ts";
import { linesOf } from "./support.ts";

/** What is told of a frontend with these lines, its place left out. */
async function told(lines: string, mode = "proxy") {
  const text = `mode = "${mode}"
[frontends.web]
listen_addr = "192.0.2.1:443"
backend = "pool"
${lines}
[backends.pool]
check = "address"
[backends.pool.servers.s1]
addr = "198.51.100.1:443"
[backends.app.servers.s1]
addr = "198.51.100.2:443"`;
  return (await linesOf(text)).map((line) => line.replace(/^[^ ]+ /, ""));
}

describe("server names", () => {
  test.each([
    ["app.example.com", "app.example.com"],
    ["App.Example.COM.", "app.example.com"],
    ["*.Example.com", "*.example.com"],
    ["bücher.example", "xn--bcher-kva.example"],
    ["*.BÜCHER.example.", "*.xn--bcher-kva.example"],
    ["xn--bcher-kva.example", "xn--bcher-kva.example"],
    ["_dmarc.example", "_dmarc.example"],
    ["localhost", "localhost"],
  ])("%s is %s to clients", (written, value) => expect(serverName(written)).toEqual({ ok: true, value }));

  test.each([
    "*",
    "*.",
    "",
    ".",
    ".example.com",
    "a..b",
    "a*.example.com",
    "a.*.example.com",
    "*.*.example.com",
    "192.0.2.1",
    "[::1]",
    "app.example.com:443",
    "https://app.example.com",
    "a b",
    `${"a".repeat(64)}.example`,
    `${"a.".repeat(127)}aa`,
  ])('"%s" is refused', (written) => expect(serverName(written).ok).toBe(false));
});

test("a name that is none, a name twice and a backend that is none are told by their places", async () => {
  expect(
    await told(
      `sni = { "app.example.com" = "app", "APP.example.com." = "app", "1.2.3.4" = "app", "x.example" = "ap" }`,
    ),
  ).toMatchInlineSnapshot(`
    [
      "error: frontends.web.sni."APP.example.com.": is the same name as "app.example.com" (expected each name once)",
      "error: frontends.web.sni."1.2.3.4": is an IP address, which clients do not send as a name (expected a name such as "app.example.com", or "*.example.com")",
      "error: frontends.web.sni."x.example": names no backend (found "ap", expected one of "pool", "app"); did you mean "app"?",
    ]
  `);
  expect(await told(`alpn = { "h2" = "app", "h 3" = "app", "" = "pol" }`)).toMatchInlineSnapshot(`
    [
      "error: frontends.web.alpn."h 3": is not a protocol of ALPN (expected its identification in ASCII, such as "h2", "http/1.1" or "acme-tls/1")",
      "error: frontends.web.alpn."": is not a protocol of ALPN (expected its identification in ASCII, such as "h2", "http/1.1" or "acme-tls/1")",
      "error: frontends.web.alpn."": names no backend (found "pol", expected one of "pool", "app"); did you mean "pool"?",
    ]
  `);
});

test("a backend that only a route leads to counts as used, and a time without routes is said to have no effect", async () => {
  expect(await told(`sni = { "app.example.com" = "app" }`)).toEqual([]);
  expect(await told(`client_hello_timeout_ms = 100`)).toMatchInlineSnapshot(`
    [
      "warning: frontends.web.client_hello_timeout_ms: has no effect without routes in sni or alpn",
      "warning: backends.app: is not used by any frontend",
    ]
  `);
});

test.each(["passthrough", "dsr"])("%s mode refuses routes with the reason", async (mode) => {
  const lines = await told(
    `client_hello_timeout_ms = 100\nsni = { "a.example" = "app" }\nalpn = { "h2" = "app" }`,
    mode,
  );
  expect(lines.filter((line) => line.includes("ClientHello"))).toHaveLength(3);
  expect(lines.join("\n")).toContain(
    `is not available in ${mode} mode: a packet is sent on before a ClientHello is whole`,
  );
});

test("a UDP frontend refuses routes with the reason", async () => {
  const lines = await told(`protocol = "udp"\nsni = { "a.example" = "app" }`);
  expect(lines.join("\n")).toContain("web.sni: is not available with UDP, which no ClientHello begins");
});

test("a circle through a route is a circle", async () => {
  const lines = await linesOf(`[frontends.web]
listen_addr = "127.0.0.1:443"
backend = "pool"
sni = { "a.example" = "back" }
[backends.pool.servers.s1]
addr = "198.51.100.1:443"
[backends.back.servers.s1]
addr = "127.0.0.1:443"`);
  expect(lines.join("\n")).toContain("connections would go in a circle");
});

const config = () => {
  const result = checkConfig({
    frontends: {
      web: {
        listen_addr: "127.0.0.1:443",
        backend: "pool",
        sni: { "B.example": "app", "*.B.example.": "app" },
        alpn: { h2: "grpc" },
      },
    },
    backends: { pool: {}, app: {}, grpc: { servers: { one: { addr: "127.0.0.1:1" } } } },
  });
  if (!result.ok) throw new Error(JSON.stringify(result));
  return result.config;
};

test("routes reach the data plane as clients say them", () => {
  expect(lower(config()).frontends[0]).toMatchObject({
    backend: "pool",
    sni: [
      { says: "b.example", backend: "app" },
      { says: "*.b.example", backend: "app" },
    ],
    alpn: [{ says: "h2", backend: "grpc" }],
    clientHelloTimeoutMs: 3000,
  });
});

test("a frontend is ready while any of the backends that it routes to has a server", () => {
  const { frontends } = config();
  expect(backendsOf(frontends.web as never)).toEqual(["pool", "app", "grpc"]);
  const record = (backend: string, up: boolean) => ({
    backend,
    server: "one",
    up,
    draining: false,
    configuredWeight: 1,
  });
  const ready = (up: boolean) =>
    readiness(config(), new Map([["grpc/one", record("grpc", up)]]) as never, false).frontends.web;
  expect([ready(true), ready(false)]).toEqual([true, false]);
});

import { describe, expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { expandSource } from "../../../ts/config/client-address.ts";
import { lower } from "../../../ts/config/lower.ts";
import { parseNetwork } from "../../../ts/config/networks.ts";
import type { ConfigInput } from "../../../ts/config/schema.ts";
import { linesOf } from "./support.ts";

/** What is told of a frontend, a backend and a server with these lines, places left out. */
async function told(lines: { mode?: string; frontend?: string; backend?: string; server?: string }) {
  const text = `mode = "${lines.mode ?? "proxy"}"
[frontends.web]
listen_addr = "192.0.2.1:80"
backend = "pool"
${lines.frontend ?? ""}
[backends.pool]
check = "address"
${lines.backend ?? ""}
[backends.pool.servers.s1]
addr = "198.51.100.1:80"
${lines.server ?? ""}`;
  return (await linesOf(text)).map((line) => line.replace(/^[^ ]+ /, ""));
}

describe("networks whose PROXY headers are believed", () => {
  test.each([
    ["10.0.0.0/8", "10.0.0.0/8"],
    ["192.0.2.7", "192.0.2.7"],
    ["2001:DB8:0::/32", "2001:db8::/32"],
    ["::1", "::1"],
    ["::ffff:10.0.0.0/104", "10.0.0.0/8"],
    ["0.0.0.0/0", "0.0.0.0/0"],
  ])("%s is read", (text, value) => expect(parseNetwork(text)).toEqual({ ok: true, value }));

  test.each([
    "10.0.0.0/33",
    "::/129",
    "10.0.0/8",
    "10.0.0.0/8/8",
    "10.0.0.0/",
    "10.0.0.0/-1",
    "10.1.0.0/8",
    "lb.example",
    "",
  ])('"%s" is refused', (text) => expect(parseNetwork(text).ok).toBe(false));

  test("an IPv6 prefix that takes in more than IPv4 addresses written as IPv6 is refused", () =>
    expect(parseNetwork("::ffff:10.0.0.0/8")).toMatchObject({ ok: false }));
});

describe("source addresses", () => {
  test("ranges are written out, of both families and over the ends of words", () => {
    expect(expandSource("10.0.0.254-10.0.1.1")).toEqual({
      ok: true,
      value: ["10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1"],
    });
    expect(expandSource(["2001:db8::fffe-2001:db8::1:1", "192.0.2.1"])).toEqual({
      ok: true,
      value: ["2001:db8::fffe", "2001:db8::ffff", "2001:db8::1:0", "2001:db8::1:1", "192.0.2.1"],
    });
    expect(expandSource("client")).toEqual({ ok: true, value: "client" });
  });

  test.each([
    [[], "names no address"],
    ["10.0.0.2-10.0.0.1", "ends before it starts"],
    ["10.0.0.1-::1", "of two families"],
    ["10.0.0.0-10.0.1.0", "has more than 64 addresses"],
    [["10.0.0.1-10.0.0.40", "10.0.1.1-10.0.1.40"], "has more than 64 addresses"],
    [["10.0.0.1", "10.0.0.1-10.0.0.2"], "names 10.0.0.1 twice"],
    [["client"], "stands alone"],
    ["0.0.0.0", "is the wildcard address"],
    ["224.0.0.1", "is a multicast address"],
    ["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "is the wildcard address"],
    ["eth0", "which is no address"],
  ])("%j is refused", (value, message) =>
    expect(expandSource(value)).toEqual({ ok: false, message: expect.stringContaining(message) }),
  );
});

describe("rules between the keys", () => {
  test("a frontend that believes everybody is a warning, one that names networks or is on loopback is none", async () => {
    expect(await told({ frontend: "accept_proxy = true" })).toEqual([
      expect.stringMatching(/believes everybody who connects .*proxy_trusted/),
    ]);
    expect(await told({ frontend: 'accept_proxy = true\nproxy_trusted = ["10.0.0.0/8"]' })).toEqual([]);
  });

  test("networks without accept_proxy, and a list of none, are errors", async () => {
    expect(await told({ frontend: 'proxy_trusted = ["10.0.0.0/8"]' })).toEqual([
      expect.stringContaining("needs accept_proxy = true"),
    ]);
    expect(await told({ frontend: "accept_proxy = true\nproxy_trusted = []" })).toHaveLength(1);
  });

  test.each(["passthrough", "dsr"])("in %s mode each key is refused with the reason", async (mode) => {
    const lines = await told({
      mode,
      frontend: "accept_proxy = true",
      backend: 'send_proxy = "v1"\nsource = ["192.0.2.9"]',
      server: 'send_proxy = "v2"',
    });
    expect(lines).toHaveLength(4);
    for (const line of lines) expect(line).toContain(`is not available in ${mode} mode, wh`);
    expect(await told({ mode, frontend: "accept_proxy = false", backend: 'send_proxy = "off"' })).toEqual([]);
  });

  test('with source = "client" a server of the other family is an error', async () => {
    const server = { server: 'max_connections = 0\n[backends.pool.servers.s2]\naddr = "[2001:db8::1]:80"' };
    expect(await told({ backend: 'source = "client"', ...server })).toEqual([
      expect.stringContaining('cannot be reached from clients of frontend "web"'),
    ]);
    expect(await told({ backend: 'source = "192.0.2.9"', ...server })).toEqual([]);
  });
});

test("a server's send_proxy wins over its backend's on the way to the data plane", () => {
  const input: ConfigInput = {
    frontends: {
      web: { listen_addr: "127.0.0.1:0", backend: "pool", accept_proxy: true, proxy_trusted: ["::1"] },
    },
    backends: {
      pool: {
        send_proxy: "v2",
        source: "10.0.0.1-10.0.0.2",
        servers: { a: { addr: "10.1.0.1:1" }, b: { addr: "10.1.0.2:1", send_proxy: "off" } },
      },
    },
  };
  const checked = checkConfig(input);
  if (!checked.ok) throw new Error(JSON.stringify(checked.problems));
  const { frontends, backends } = lower(checked.config);
  expect(frontends[0]).toMatchObject({
    acceptProxy: true,
    proxyTrusted: ["::1"],
    proxyHeaderTimeoutMs: 3000,
  });
  expect(backends[0]).toMatchObject({ sourceClient: false, sourceAddresses: ["10.0.0.1", "10.0.0.2"] });
  expect(backends[0]?.servers.map((server) => server.sendProxy)).toEqual(["v2", "off"]);
  expect(checkConfig(checked.config)).toMatchObject({ ok: true, config: checked.config });
});

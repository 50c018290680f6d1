import { describe, expect, test } from "vitest";
import { linesOf } from "./support.ts";

type Settings = {
  method?: string;
  check?: string;
  listen?: string;
  protocol?: string;
  mode?: string;
  more?: string;
};

/** What is told of a backend in dsr mode, places left out. */
async function told(settings: Settings): Promise<string[]> {
  const {
    method = "l2",
    check,
    listen = "192.0.2.1:80",
    protocol = "tcp",
    mode = "dsr",
    more = "",
  } = settings;
  const text = `mode = "${mode}"
[dsr]
method = "${method}"
[frontends.web]
listen_addr = "${listen}"
protocol = "${protocol}"
backend = "pool"
[backends.pool]
${check === undefined ? "" : `check = "${check}"`}
[backends.pool.servers.s1]
addr = "198.51.100.1:80"
${more}`;
  return (await linesOf(text)).map((line) => line.replace(/^[^ ]+ /, ""));
}

describe("what health checks ask for in dsr mode", () => {
  test("nothing is said where servers are asked for the frontend's address, or where it is said that they are not", async () => {
    expect(await told({})).toEqual([]);
    expect(await told({ check: "vip" })).toEqual([]);
    expect(await told({ method: "rewrite", check: "vip" })).toEqual([]);
    expect(await told({ method: "rewrite", check: "address" })).toEqual([]);
    expect(await told({ check: "address", listen: ":80" })).toEqual([]);
  });

  test("with rewrite it is a warning that servers are asked at their own addresses", async () => {
    expect(await told({ method: "rewrite" })).toEqual([
      'warning: backends.pool: has health checks that ask its servers\' own addresses: a server whose answers do not come from the frontend\'s is not noticed (expected check = "vip" to ask as clients do, or check = "address" to say that this is meant)',
    ]);
  });

  test.each([{ listen: ":80" }, { protocol: "udp" }])(
    "with l2 it is one for a frontend of which no address can be asked, %o",
    async (settings) => {
      expect(await told(settings)).toEqual([
        expect.stringMatching(
          /^warning: backends\.pool: has health checks .* no TCP frontend with an address/,
        ),
      ]);
    },
  );

  test("a method of the backend's own counts before that of all", async () => {
    expect(await told({ method: "rewrite", more: '[backends.pool]\ndsr_method = "l2"' })).toHaveLength(1);
  });

  test("what cannot be asked for is refused when it is demanded", async () => {
    expect(await told({ check: "vip", listen: ":80" })).toEqual([
      'error: backends.pool.check: asks servers for the frontend\'s address, and the wildcard is none (found "vip", expected "address", or a TCP frontend with an address)',
    ]);
    expect(await told({ check: "vip", protocol: "udp" })).toEqual([
      'error: backends.pool.check: asks servers by TCP for the frontend\'s address, and only UDP frontends use this backend (found "vip", expected "address", or a TCP frontend with an address)',
    ]);
    const more = '[frontends.second]\nlisten_addr = "192.0.2.2:80"\nbackend = "pool"';
    expect(await told({ check: "vip", more })).toEqual([]);
    expect(await told({ method: "rewrite", check: "vip", more })).toEqual([
      'error: backends.pool.check: asks servers for "192.0.2.1" and "192.0.2.2", and by method "rewrite" a server answers from one address (found "vip", expected "address", or a backend for each address)',
    ]);
  });

  test.each(["passthrough", "proxy"])(
    "in %s mode the frontend's address is refused, the server's accepted",
    async (mode) => {
      expect(await told({ mode, check: "address" })).toEqual([]);
      expect(await told({ mode, check: "vip" })).toEqual([
        `error: backends.pool.check: asks servers for the frontends' addresses, which they have in dsr mode alone, not in ${mode} mode (found "vip", expected "address", or no such key)`,
      ]);
    },
  );

  test("another word is refused", async () => {
    expect(await told({ check: "port" })).toEqual([
      expect.stringMatching(/^error: backends\.pool\.check: .*"vip", "address"/),
    ]);
  });
});

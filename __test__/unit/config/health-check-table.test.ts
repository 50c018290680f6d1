import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { parseBytes } from "../../../ts/config/bytes.ts";
import { checkConfig } from "../../../ts/config/check.ts";
import { isListed, parseStatusList } from "../../../ts/config/status-list.ts";
import { linesOf } from "./support.ts";

/** What is told of a table of checks; `own` are further keys of its backend. */
async function told(
  table: string,
  { own = "", mode = "proxy", protocol = "tcp", head = "", addr = "198.51.100.1:80" } = {},
): Promise<string[]> {
  const text = `mode = "${mode}"
${head}
[frontends.web]
listen_addr = "192.0.2.1:80"
backend = "pool"
protocol = "${protocol}"
[backends.pool]
${own}
[backends.pool.servers.s1]
addr = "${addr}"
[backends.pool.health_check]
${table}`;
  return (await linesOf(text)).map((line) => line.replace(/^[^ ]+ /, ""));
}

describe("the table of checks", () => {
  test.each([
    "",
    'type = "tcp"\nport = 8080\ninterval_ms = 100\ndown_interval_ms = 5000',
    'type = "http"\npath = "/healthz?full=1"\nhost = "app.example.com"\nexpect = "200-299,301"\nexpect_body = "ok"',
    'type = "http"\ntls = true\ntls_sni = "app.example.com"\ntls_verify = false',
    "type = \"send_expect\"\nsend = 'PING\\r\\n'\nexpect = '+PONG'",
    'type = "send_expect"\nprotocol = "udp"\nsend = "x"',
    'type = "none"',
  ])("a sound one is taken: %s", async (table) => {
    expect(await told(table)).toEqual([]);
  });

  test("a server on a Unix socket takes all but datagrams, and has no use for a port", async () => {
    const addr = "unix:/run/app.sock";
    expect(await told('type = "http"\ntls = true', { addr })).toEqual([]);
    expect(await told('type = "none"', { addr })).toEqual([]);
    expect(await told('type = "send_expect"\nprotocol = "udp"\nsend = "x"', { addr })).toEqual([
      'error: backends.pool.health_check.protocol: cannot ask server "s1", which is a Unix socket, by UDP (found "udp", expected "tcp")',
    ]);
    expect(await told("port = 8080", { addr })).toEqual([
      'warning: backends.pool.health_check.port: has no effect on server "s1", which is a Unix socket (found 8080)',
    ]);
  });

  test("what is stated by a flat key, too, is refused with both names", async () => {
    const own =
      "health_check_interval = 1\nhealth_check_fast_interval_ms = 1\nhealth_check_timeout_ms = 1\nhealth_check_rise = 1\nhealth_check_fall = 1";
    const table = "interval_ms = 100\nfast_interval_ms = 100\ntimeout_ms = 1\nrise = 1\nfall = 1";
    expect(await told("", { own })).toEqual([]);
    const lines = await told(table, { own });
    expect(lines).toHaveLength(5);
    expect(lines[0]).toBe(
      "error: backends.pool.health_check.interval_ms: says the same as backends.pool.health_check_interval, and one of them has to go (expected either interval_ms or health_check_interval)",
    );
  });

  test.each([
    ['type = "tcp"\npath = "/"', /health_check\.path: is no key of type "tcp" \(expected type = "http"\)/],
    ['type = "http"\nsend = "x"', /health_check\.send: is no key of type "http"/],
    ['type = "http"\nexpect = "2xx"', /health_check\.expect: is no list of statuses/],
    ['type = "http"\nexpect = "100-200"', /names a status that no answer ends with/],
    ['type = "http"\nexpect = "299-200"', /has a range that ends before it begins/],
    ['type = "http"\nmethod = "HEAD"\nexpect_body = "x"', /looks into a body, which HEAD does not ask for/],
    ['type = "http"\npath = "healthz"', /is no path that a request can name/],
    ['type = "http"\npath = "/\\r\\nx: y"', /is no path that a request can name/],
    ['type = "http"\nhost = "a b"', /is no name that a request can carry/],
    ['type = "send_expect"\nsend = "x"', /has type "send_expect" over TCP and nothing to expect/],
    ['type = "send_expect"\nprotocol = "udp"\nexpect = "x"', /over UDP and nothing to send/],
    [
      'type = "send_expect"\nprotocol = "udp"\nsend = "x"\ntls = true',
      /health_check\.tls: cannot be had over UDP/,
    ],
    ["type = \"send_expect\"\nexpect = '\\q'", /has the unknown escape \\\\?q/],
    ["type = \"send_expect\"\nexpect = 'x\\'", /ends with a lone backslash/],
    [
      'tls_sni = "app.example.com"',
      /health_check\.tls_sni: says how TLS is spoken, and no TLS is \(expected tls = true\)/,
    ],
    ['tls = true\ntls_sni = "192.0.2.1"', /is not a host name/],
    ['type = "none"\ninterval_ms = 100', /has nothing to say where type = "none"/],
    ["interval_ms = 99", /interval_ms: is out of range|interval_ms: .*100/],
    ['type = "ping"', /health_check\.type: /],
    ['typ = "tcp"', /health_check\.typ: .*did you mean "type"/],
  ])("an unsound one is told with its place: %s", async (table, line) => {
    const lines = await told(table);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(line);
    expect(lines[0]).toMatch(/^error: backends\.pool\.health_check/);
  });

  test("texts go by datagrams where every frontend is UDP", async () => {
    expect(await told('type = "send_expect"\nsend = "x"', { mode: "passthrough", protocol: "udp" })).toEqual(
      [],
    );
  });

  test("certificates that this host does not have are told where a start would miss them", async () => {
    const { loadConfigText } = await import("../../../ts/config/load.ts");
    const text = `[frontends.web]\nlisten_addr = "127.0.0.1:80"\nbackend = "pool"\n[backends.pool.servers.s1]\naddr = "127.0.0.1:81"\n[backends.pool.health_check]\ntls = true\ntls_ca = "/none/ca.pem"`;
    const loaded = await loadConfigText(text, { host: true });
    expect(loaded.ok ? [] : loaded.problems).toMatchObject([
      { path: "backends.pool.health_check.tls_ca", message: "names no file", found: '"/none/ca.pem"' },
    ]);
    expect((await loadConfigText(text)).ok).toBe(true);
  });

  test("in dsr mode what frontends' addresses cannot be asked is a warning, or an error where it is demanded", async () => {
    const dsr = { mode: "dsr", head: '[dsr]\nmethod = "l2"' };
    expect(await told("port = 8080", dsr)).toEqual([]);
    expect(await told('type = "http"', dsr)).toEqual([
      expect.stringMatching(
        /^warning: backends\.pool\.health_check: asks servers by type "http" at their own addresses/,
      ),
    ]);
    expect(await told('type = "http"', { ...dsr, own: 'check = "address"' })).toEqual([]);
    expect(await told('type = "http"', { ...dsr, own: 'check = "vip"' })).toEqual([
      expect.stringMatching(
        /^error: backends\.pool\.check: asks servers for the frontends' addresses, which type "http" cannot/,
      ),
    ]);
    expect(await told("tls = true", { ...dsr, own: 'check = "vip"' })).toHaveLength(1);
  });

  test("a configuration as it is shown is taken again", () => {
    const input = {
      frontends: { web: { listen_addr: "127.0.0.1:80", backend: "pool" } },
      backends: {
        pool: { health_check: { interval_ms: 500, fall: 1 }, servers: { s1: { addr: "127.0.0.1:81" } } },
      },
    };
    const first = checkConfig(input);
    const again = first.ok ? checkConfig(JSON.parse(JSON.stringify(first.config))) : first;
    expect(again).toEqual(first);
    expect(first.ok && first.config.backends.pool).toMatchObject({ health_check_rise: 2 });
    expect(first.ok && first.config.backends.pool).not.toHaveProperty("health_check_fall");
  });
});

describe("ejection", () => {
  test("the packet modes, which connect to nobody, refuse it; settings of what is off are told", async () => {
    expect(await told("", { own: "eject_after = 3\neject_ms = 1" })).toEqual([]);
    expect(await told("", { own: "eject_after = 3", mode: "passthrough" })).toEqual([
      'error: backends.pool.eject_after: is not available in passthrough mode, which does not connect to servers itself (found 3, expected 0, or mode = "proxy")',
    ]);
    expect(await told("", { own: "eject_ms = 1" })).toEqual([
      "warning: backends.pool.eject_ms: has no effect without eject_after",
    ]);
    expect(await told("", { own: 'on_down = "reset"', mode: "passthrough" })).toEqual([]);
  });
});

describe("texts", () => {
  test("any bytes can be written, and nothing that is written makes reading throw", () => {
    for (let n = 0; n < 500; n++) {
      const bytes = randomBytes(n % 40);
      const written = [...bytes].map((it) => `\\x${it.toString(16).padStart(2, "0")}`).join("");
      expect(parseBytes(written)).toEqual({ ok: true, value: bytes });
      for (const text of [
        bytes.toString("latin1"),
        `\\${bytes.toString("latin1")}`,
        `20${bytes.toString("ascii")}`,
      ]) {
        parseBytes(text);
        parseStatusList(text);
      }
    }
    expect(parseBytes(String.raw`a\r\n\t\0\\ä`)).toEqual({ ok: true, value: Buffer.from("a\r\n\t\0\\ä") });
  });

  test("a list of statuses names numbers and ranges, both ends included", () => {
    const list = parseStatusList("200-204, 301");
    expect([199, 200, 204, 205, 301, 302].map((it) => list.ok && isListed(list.value, it))).toEqual([
      false,
      true,
      true,
      false,
      true,
      false,
    ]);
  });
});

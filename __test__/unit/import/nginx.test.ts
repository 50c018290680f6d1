import { expect, test } from "vitest";
import { meaning } from "./support.ts";

const nginx = (text: string) => meaning(text, "nginx");

/** A server with these directives, before an upstream of two. */
const stream = (server: string, upstream = "", outer = "") =>
  nginx(`stream {
${outer}
upstream app { server 10.0.0.1:80; server 10.0.0.2:80; ${upstream} }
server { proxy_pass app; ${server} }
}`);

test("a server is a frontend named after its port, an upstream a backend", () => {
  const { toml, left } = stream("listen 127.0.0.1:3306;", "least_conn; zone app 64k;");
  expect(left).toEqual([]);
  expect(toml.frontends).toEqual({ tcp_3306: { listen_addr: "127.0.0.1:3306", backend: "app" } });
  expect(toml.backends.app).toMatchObject({
    balance: "least_connections",
    servers: { s1: { addr: "10.0.0.1:80" }, s2: { addr: "10.0.0.2:80" } },
  });
});

test("what nginx does by default is written where Convey does otherwise", () => {
  expect(stream("listen 1;").toml.backends.app).toMatchObject({
    connect_timeout_ms: 60_000,
    idle_timeout_ms: 600_000,
    retries: 1,
    eject_after: 1,
    eject_ms: 10_000,
    health_check: { type: "none" },
  });
});

test("durations have the units of nginx, seconds unless given", () => {
  const idle = (value: string) =>
    stream(`listen 1; proxy_timeout ${value};`).toml.backends.app.idle_timeout_ms;
  expect(["90", "1500ms", "1m30s", '"1h 30m"', "1d"].map(idle)).toEqual([
    90_000, 1500, 90_000, 5_400_000, 86_400_000,
  ]);
  expect(stream("listen 1; proxy_timeout soon;").left).toEqual(["4: not taken over: it is not a duration"]);
});

test("servers have weight, limit and backup; failures count for the backend", () => {
  const { toml, left } = nginx(`stream { upstream a {
server 10.0.0.1:1 weight=5 max_conns=10 max_fails=3 fail_timeout=30s;
server db.example.com:1 backup resolve max_fails=3 fail_timeout=30s;
server [2001:db8::1]:1 down max_fails=2;
server unix:/run/app.sock slow_start=30s;
server 10.0.0.5;
} server { listen 1; proxy_pass a; } }`);
  expect(toml.backends.a).toMatchObject({ eject_after: 3, eject_ms: 30_000 });
  expect(toml.backends.a.servers).toEqual({
    s1: { addr: "10.0.0.1:1", weight: 5, max_connections: 10 },
    s2: { addr: "db.example.com:1", backup: true },
    s3: { addr: "[2001:db8::1]:1", weight: 0 },
    s4: { addr: "unix:/run/app.sock" },
  });
  expect(left).toEqual([
    expect.stringMatching(/^4: "max_fails=2" is not taken over: eject_after and eject_ms are of the backend/),
    expect.stringMatching(/^5: "slow_start=30s" is not taken over/),
    expect.stringMatching(/^6: the server is not taken over: its address has no port/),
  ]);
});

test.each([
  ["random two least_conn;", "random_two"],
  ["hash $remote_addr consistent;", "source_hash"],
  ["hash $binary_remote_addr;", "source_hash"],
  ["", undefined],
])("the method %j is the balance %s", (method, balance) => {
  const { toml, left } = stream("listen 1;", method);
  expect(left).toEqual([]);
  expect(toml.backends.app.balance).toBe(balance);
});

test.each([
  ["3306", ":3306"],
  ["*:3306", ":3306"],
  ["[::]:3306", "[::]:3306"],
  ["10.0.0.1:3306 reuseport backlog=5", "10.0.0.1:3306"],
])("listen %s is %s", (written, expected) => {
  const { toml, left } = stream(`listen ${written};`);
  expect(left).toEqual([]);
  expect(toml.frontends.tcp_3306.listen_addr).toBe(expected);
});

test("several addresses are a list; TLS of nginx's own and Unix sockets are left", () => {
  const { toml, left } = stream("listen 1;\nlisten [::]:1 ipv6only=off;\nlisten 2 ssl;\nlisten unix:/a;");
  expect(toml.frontends.tcp_1.listen).toEqual([":1", "[::]:1"]);
  expect(left).toEqual([
    expect.stringMatching(/^6: not taken over: TLS passes through/),
    expect.stringMatching(/^7: not taken over: a frontend listens on addresses/),
  ]);
});

test("UDP has its own frontend, with the numbers of datagrams", () => {
  const { toml, left } = stream(
    "listen 53; listen 53 udp; proxy_responses 1; proxy_requests 2; proxy_timeout 20s;",
  );
  expect(left).toEqual([]);
  expect(toml.frontends.udp_53).toEqual({
    listen_addr: ":53",
    protocol: "udp",
    backend: "app_2",
    udp_idle_timeout_ms: 20_000,
    udp_responses: 1,
    udp_requests: 2,
  });
  expect(toml.frontends.tcp_53).toEqual({ listen_addr: ":53", backend: "app" });
});

test("PROXY headers are sent, and taken from whom nginx trusts", () => {
  const { toml, left } = stream(
    "listen 1 proxy_protocol; set_real_ip_from 192.0.2.0/24; proxy_protocol on;",
    "",
    "proxy_protocol_timeout 5s;",
  );
  expect(left).toEqual([]);
  expect(toml.backends.app.send_proxy).toBe("v1");
  expect(toml.frontends.tcp_1).toMatchObject({
    accept_proxy: true,
    proxy_trusted: ["192.0.2.0/24"],
    proxy_header_timeout_ms: 5000,
  });
});

test("allow and deny are lists that mean the same, those of the server before those of the stream", () => {
  const lists = (server: string, outer = "") => {
    const { allow, deny } = stream(`listen 1; ${server}`, "", outer).toml.frontends.tcp_1;
    return { allow, deny };
  };
  expect(lists("allow 10.0.0.0/8; deny all;")).toEqual({ allow: ["10.0.0.0/8"] });
  expect(lists("deny 10.0.0.1; allow 10.0.0.0/8; deny all;")).toEqual({
    allow: ["10.0.0.0/8"],
    deny: ["10.0.0.1"],
  });
  expect(lists("allow 10.0.0.1; deny 10.0.0.0/8;")).toEqual({
    allow: ["10.0.0.1", "0.0.0.0/0", "::/0"],
    deny: ["10.0.0.0/8"],
  });
  expect(lists("deny all;")).toEqual({ deny: ["0.0.0.0/0", "::/0"] });
  expect(lists("", "deny 192.0.2.1;")).toEqual({ deny: ["192.0.2.1"] });
  expect(lists("allow all;", "deny 192.0.2.1;")).toEqual({});
  expect(lists("deny 10.1.2.3/8;")).toEqual({ deny: ["10.0.0.0/8"] });
  expect(lists("deny 2001:db8:1::/32;")).toEqual({ deny: ["2001:db8::/32"] });
  expect(stream("listen 1; deny nobody;").left).toEqual([
    '4: "nobody" is not taken over: it is not a network, such as 192.0.2.0/24',
  ]);
});

test("one upstream is a backend for each set of timeouts that servers have for it", () => {
  const { toml } = nginx(`stream { upstream a { server 10.0.0.1:1; }
server { listen 1; proxy_pass a; }
server { listen 2; proxy_pass a; proxy_timeout 5s; }
server { listen 3; proxy_pass a; } }`);
  const backends = Object.values<{ backend: string }>(toml.frontends).map(({ backend }) => backend);
  expect(backends).toEqual(["a", "a_2", "a"]);
  expect(toml.backends.a_2.idle_timeout_ms).toBe(5000);
});

test("tries, and where connections start from", () => {
  const backend = (directive: string) => stream(`listen 1; ${directive}`).toml.backends.app;
  expect(backend("proxy_next_upstream off;").retries).toBe(0);
  expect(backend("proxy_next_upstream_tries 1;").retries).toBe(0);
  expect(backend("proxy_next_upstream_tries 9;").retries).toBe(1);
  expect(backend("proxy_bind 10.0.0.9;").source).toBe("10.0.0.9");
  expect(backend("proxy_bind $remote_addr transparent;").source).toBe("client");
});

test("backends by the name in the ClientHello", () => {
  const { toml, left } = nginx(`stream {
map $ssl_preread_server_name $to {
  hostnames;
  www.example.com web;
  .example.org web;
  *.api.example.com 10.0.0.9:443;
  ~x web;
  default web;
}
upstream web { server 10.0.0.1:443; }
server { listen 443; ssl_preread on; proxy_pass $to; } }`);
  expect(toml.frontends.tcp_443).toEqual({
    listen_addr: ":443",
    backend: "web",
    sni: {
      "www.example.com": "web",
      "example.org": "web",
      "*.example.org": "web",
      "*.api.example.com": "10.0.0.9:443",
    },
  });
  expect(left).toEqual([expect.stringMatching(/^7: not taken over: names are whole, or begin with \*\./)]);
});

test("another variable, an unknown upstream and a server without proxy_pass are named", () => {
  const { toml, left } = nginx(`stream {
server { listen 1; proxy_pass $backend; }
server { listen 2; proxy_pass nothing; }
server { listen 3; }
upstream unused { server 10.0.0.1:1; } }`);
  expect(Object.keys(toml.frontends)).toEqual(["tcp_2"]);
  expect(left).toEqual([
    expect.stringMatching(/^2: not taken over: of variables/),
    expect.stringMatching(/^3: the server is not taken over: no upstream has this name/),
    expect.stringMatching(/^4: the server is not taken over: it has no proxy_pass/),
    expect.stringMatching(/^5: not taken over: no server that was taken over uses it/),
  ]);
});

test("other blocks and includes are named, each once", () => {
  const { left } = nginx("include /etc/nginx/modules/*.conf;\nhttp {\n server { listen 80; }\n}\nmail { }");
  expect(left).toEqual([
    expect.stringMatching(/^1: not taken over: files that are included are not followed/),
    expect.stringMatching(/^2: not taken over: it is not about HTTP/),
    expect.stringMatching(/^5: not taken over: it is not about mail/),
  ]);
});

test("quotes, escapes, comments and braces are read as nginx reads them", () => {
  const { toml, left } = nginx(`stream { # }
upstream "a b" { server '10.0.0.1:1'; server 10.0.0.2:1 # {
 weight=2; }
log_format x "a;{}
b" ;
server { listen 1; proxy_pass a\\ b; } }`);
  expect(toml.backends["a b"].servers).toEqual({
    s1: { addr: "10.0.0.1:1" },
    s2: { addr: "10.0.0.2:1", weight: 2 },
  });
  expect(left).toEqual([expect.stringMatching(/^4: not taken over: lines for connections/)]);
});

test("a brace or semicolon that is missing or too many is named", () => {
  expect(nginx("stream { server { listen 1; proxy_pass 10.0.0.1:1 } }").left).toEqual([
    expect.stringMatching(/^1: "proxy_pass" is not taken over: no ";" ends it/),
    expect.stringMatching(/^1: the server is not taken over/),
  ]);
  expect(nginx("stream {\n").left).toEqual(['1: a "}" is missing at the end of the file']);
  expect(nginx("}").left).toEqual(['1: a "}" without a "{" is passed over']);
});

import { describe, expect, test } from "vitest";
import { meaning } from "./support.ts";

const haproxy = (text: string) => meaning(text, "haproxy");

/** A listen section with these lines in it, and a server behind its address. */
const listen = (...lines: string[]) =>
  haproxy(["listen web", "bind 127.0.0.1:80", "server one 10.0.0.1:80 check", ...lines].join("\n"));

test("a listen section is a frontend and a backend of its name", () => {
  const { toml, left } = listen("balance leastconn", "retries 5", "timeout queue 2s");
  expect(left).toEqual([]);
  expect(toml).toMatchObject({
    frontends: { web: { listen_addr: "127.0.0.1:80", backend: "web" } },
    backends: {
      web: { balance: "least_connections", retries: 5, servers: { one: { addr: "10.0.0.1:80" } } },
    },
  });
});

test("what HAProxy does by default is written where Convey does otherwise", () => {
  const { retries, idle_timeout_ms, health_check } = listen().toml.backends.web;
  expect({ retries, idle_timeout_ms }).toEqual({ retries: 3, idle_timeout_ms: 0 });
  expect(health_check).toEqual({ type: "tcp", interval_ms: 2000, timeout_ms: 2000 });
  const unchecked = haproxy("listen a\nbind :1\nserver s 10.0.0.1:1").toml.backends.a;
  expect(unchecked.health_check).toEqual({ type: "none" });
});

test("durations have the units of HAProxy, milliseconds unless given", () => {
  const timeouts = (value: string) => listen(`timeout connect ${value}`).toml.backends.web.connect_timeout_ms;
  expect(["1500", "1500us", "2s", "3m", "1h", "1d"].map(timeouts)).toEqual([
    1500, 2, 2000, 180_000, 3_600_000, 86_400_000,
  ]);
  expect(listen("timeout connect soon").left).toEqual([
    "4: not taken over: it has no value that is understood",
  ]);
});

test("the idle timeout is that of the side that is shorter, or that of the tunnel", () => {
  const idle = (...lines: string[]) => listen(...lines).toml.backends.web.idle_timeout_ms;
  expect(idle("timeout client 30s", "timeout server 1m")).toBe(30_000);
  expect(idle("timeout client 1m", "timeout server 30s")).toBe(30_000);
  expect(idle("timeout client 1m", "timeout server 30s", "timeout tunnel 1h")).toBe(3_600_000);
  const fins = listen("timeout client-fin 20s", "timeout server-fin 10s").toml.backends.web;
  expect(fins.half_close_timeout_ms).toBe(10_000);
});

test("sections have the defaults above them, or those they name, and what they say themselves", () => {
  const { toml, left } = haproxy(`
defaults early
  timeout connect 1s
  retries 1
defaults
  timeout connect 2s
listen a from early
  bind :1
  server s 10.0.0.1:1
listen b
  bind :2
  retries 9
  server s 10.0.0.1:1
listen c from nowhere
  bind :3
  server s 10.0.0.1:1
`);
  const { a, b } = toml.backends;
  expect([a.connect_timeout_ms, a.retries, b.connect_timeout_ms, b.retries]).toEqual([1000, 1, 2000, 9]);
  expect(left).toEqual(["14: not taken over: there are no defaults of that name"]);
});

test.each([
  [":80", ":80"],
  ["*:80", ":80"],
  ["0.0.0.0:80", ":80"],
  ["[::]:80", "[::]:80"],
  [":::80", "[::]:80"],
  ["ipv6@:80", "[::]:80"],
  ["10.0.0.1:80", "10.0.0.1:80"],
])("bind %s is %s", (written, expected) => {
  const { toml, left } = haproxy(`listen a\nbind ${written}\nserver s 10.0.0.1:1`);
  expect(left).toEqual([]);
  expect(toml.frontends.a.listen_addr).toBe(expected);
});

test("ranges and several addresses are a list, of both families where v4v6 is said", () => {
  const { toml } = haproxy("listen a\nbind :80-89,[::1]:80\nbind [::]:90 v4v6\nserver s 10.0.0.1:1");
  expect(toml.frontends.a.listen).toEqual([":80-89", "[::1]:80", "[::]:90", ":90"]);
});

test("an address where HAProxy ends TLS, or of another kind, is not taken over", () => {
  const { toml, left } = haproxy(
    "listen a\nbind :443 ssl crt /x.pem\nbind /a.sock\nbind :80\nserver s 10.0.0.1:1",
  );
  expect(toml.frontends.a.listen_addr).toBe(":80");
  expect(left).toEqual([
    expect.stringMatching(/^2: not taken over: TLS passes through/),
    expect.stringMatching(/^3: "\/a.sock" is not taken over: a frontend listens on addresses/),
  ]);
});

test("PROXY headers of clients are for all addresses of a frontend: others are left", () => {
  const all = haproxy("listen a\nbind :1 accept-proxy\nserver s 10.0.0.1:1");
  expect(all.toml.frontends.a.accept_proxy).toBe(true);
  const trusted = listen("tcp-request connection expect-proxy layer4 if { src 192.0.2.0/24 }");
  expect(trusted.toml.frontends.web).toMatchObject({ accept_proxy: true, proxy_trusted: ["192.0.2.0/24"] });
  const mixed = haproxy("listen a\nbind :1\nbind :2 accept-proxy\nserver s 10.0.0.1:1");
  expect(mixed.toml.frontends.a).toEqual({ listen_addr: ":1", backend: "a" });
  expect(mixed.left).toEqual([
    expect.stringMatching(/^3: not taken over: accept_proxy is for every address/),
  ]);
});

test("servers have weight, limit, backup, PROXY header; those that are disabled get nothing", () => {
  const { toml, left } = haproxy(`listen a
bind :1
default-server maxconn 10
server s1 10.0.0.1:1 weight 20 send-proxy
server s2 db.example.com:1 backup send-proxy-v2 maxconn 5
server s3 [2001:db8::1]:1 disabled
server s4 unix@/run/app.sock`);
  expect(left).toEqual([]);
  expect(toml.backends.a.servers).toEqual({
    s1: { addr: "10.0.0.1:1", weight: 20, max_connections: 10, send_proxy: "v1" },
    s2: { addr: "db.example.com:1", max_connections: 5, backup: true, send_proxy: "v2" },
    s3: { addr: "[2001:db8::1]:1", weight: 0, max_connections: 10 },
    s4: { addr: "unix:/run/app.sock", max_connections: 10 },
  });
});

test("connections that are too many for the servers wait, as long as there", () => {
  const queue = (...lines: string[]) => {
    const text = [...lines, "listen a", "bind :1", "server s 10.0.0.1:1 maxconn 5"].join("\n");
    const { queue, queue_timeout_ms } = haproxy(text).toml.backends.a;
    return [queue, queue_timeout_ms];
  };
  expect(queue()).toEqual([10_000, undefined]);
  expect(queue("global", "maxconn 300", "defaults", "timeout connect 3s")).toEqual([300, 3000]);
  expect(queue("defaults", "timeout connect 3s", "timeout queue 1m")).toEqual([10_000, 60_000]);
});

test("names that cannot be used are mended, and that is said", () => {
  const { toml, left } = haproxy("listen a/b\nbind :1\nserver x/y 10.0.0.1:1\nserver x_y 10.0.0.2:1");
  expect(toml.frontends.a_b.backend).toBe("a_b");
  expect(Object.keys(toml.backends.a_b.servers)).toEqual(["x_y", "x_y_2"]);
  expect(left.map((line) => line.replace(/:.*/, ""))).toEqual(["1", "1", "3", "4"]);
});

test("a server with TLS of HAProxy's own, without a port, or from a template is not taken over", () => {
  const { toml, left } = haproxy(
    "listen a\nbind :1\nserver s1 10.0.0.1:1 ssl verify none\nserver s2 10.0.0.2\nserver-template s 3 a.b:1\nserver s4 10.0.0.4:+5",
  );
  expect(toml.backends.a.servers).toBeUndefined();
  expect(left).toEqual([
    expect.stringMatching(/^3: the server is not taken over: HAProxy begins TLS/),
    expect.stringMatching(/^4: the server is not taken over: its address has no port/),
    expect.stringMatching(/^5: not taken over: write one server with a name/),
    expect.stringMatching(/^6: the server is not taken over: a server has one port/),
  ]);
});

describe("checks", () => {
  const check = (...lines: string[]) => {
    const { toml, left } = listen(...lines);
    return { ...toml.backends.web.health_check, left };
  };

  test("option httpchk has HAProxy's method and path unless it says others", () => {
    expect(check("option httpchk")).toMatchObject({ type: "http", method: "OPTIONS", path: "/" });
    expect(check("option httpchk /ping")).toMatchObject({ method: "OPTIONS", path: "/ping" });
    expect(
      check(
        "option httpchk GET /a HTTP/1.1\\r\\nHost:\\ app.example.com",
        "http-check expect status 200-299",
      ),
    ).toMatchObject({ method: "GET", path: "/a", host: "app.example.com", expect: "200-299", left: [] });
    expect(check("option httpchk", "http-check send meth GET uri /b hdr Host x.y hdr X-A b")).toMatchObject({
      method: "GET",
      path: "/b",
      host: "x.y",
      left: [expect.stringMatching(/^5: "hdr X-A" is not taken over/)],
    });
  });

  test("option tcp-check with a text and an answer is an exchange", () => {
    expect(
      check(
        "option tcp-check",
        "tcp-check connect",
        'tcp-check send "PING\\r\\n"',
        "tcp-check expect string +PONG",
      ),
    ).toMatchObject({ type: "send_expect", send: "PING\\r\\n", expect: "+PONG", left: [] });
    expect(check("option tcp-check")).toMatchObject({ type: "tcp", left: [] });
    expect(check("option tcp-check", "tcp-check expect string 220", "tcp-check send QUIT").left).toEqual([
      expect.stringMatching(/^6: not taken over: a check sends one text/),
    ]);
  });

  test("they are one for all servers of a backend: those that differ are named", () => {
    const { left } = listen("server two 10.0.0.2:80", "server three 10.0.0.3:80 check inter 9s");
    expect(left).toEqual([
      expect.stringMatching(/^4: it is checked like the other servers here/),
      expect.stringMatching(/^5: it is checked as the server of line 3 is/),
    ]);
  });
});

describe("who may connect", () => {
  const lists = (...lines: string[]) => {
    const { toml, left } = listen(...lines);
    const { allow, deny } = toml.frontends.web;
    return { allow, deny, left };
  };
  const none: string[] = [];

  test("reject if src is deny, reject unless src is allow", () => {
    expect(lists("tcp-request connection reject if { src 192.0.2.0/24 198.51.100.7 }")).toEqual({
      deny: ["192.0.2.0/24", "198.51.100.7"],
      left: none,
    });
    expect(lists("acl ours src 10.0.0.0/8", "tcp-request connection reject unless ours")).toEqual({
      allow: ["10.0.0.0/8"],
      left: none,
    });
    expect(lists("acl ours src 10.0.0.0/8", "tcp-request connection reject if !ours").allow).toEqual([
      "10.0.0.0/8",
    ]);
  });

  test("the first rule that fits counts there, the longest prefix here: the lists mean the same", () => {
    expect(
      lists(
        "tcp-request connection accept if { src 10.0.0.0/8 }",
        "tcp-request connection reject if { src 10.1.0.0/16 }",
        "tcp-request connection reject if { src 0.0.0.0/0 }",
      ),
    ).toEqual({ allow: ["10.0.0.0/8", "::/0"], deny: ["0.0.0.0/0"], left: none });
  });

  test("conditions that are not understood are named, with the ACLs that they use", () => {
    const { left } = lists("acl fast src_conn_rate gt 10", "tcp-request connection reject if fast");
    expect(left).toEqual([
      expect.stringMatching(/^4: not taken over: of conditions, src with networks/),
      expect.stringMatching(/^5: not taken over: of conditions on connections, "src"/),
    ]);
  });
});

test("backends by the name in the ClientHello, the first rule for a name counts", () => {
  const { toml, left } = haproxy(`frontend tls
bind :443
tcp-request inspect-delay 5s
tcp-request content accept if { req_ssl_hello_type 1 }
acl api req.ssl_sni -i api.example.com
acl api req.ssl_sni -i rest.example.com
use_backend api if api
use_backend web if { req_ssl_sni -m end .example.com }
use_backend web if { req_ssl_sni -i API.example.com }
use_backend web if { req_ssl_sni -m reg ^x }
default_backend web
backend web
server s 10.0.0.1:443
backend api
server s 10.0.0.2:443`);
  expect(toml.frontends.tls).toEqual({
    listen_addr: ":443",
    backend: "web",
    sni: { "api.example.com": "api", "rest.example.com": "api", "*.example.com": "web" },
  });
  expect(left).toEqual([expect.stringMatching(/^10: not taken over: a backend is chosen by the name/)]);
});

test("a section in mode http is named once, with the line that says so", () => {
  const { toml, left } = haproxy("defaults\nmode http\nlisten a\nbind :1\nacl x path /\nserver s 10.0.0.1:1");
  expect(toml).toEqual({});
  expect(left).toEqual([
    expect.stringMatching(/^3: the section is not taken over: it is in mode http \(line 2\)/),
  ]);
});

test("quotes, escapes and comments are read as HAProxy reads them", () => {
  const { toml, left } = haproxy(
    'listen "a b" # c\nbind :1\n# server x 10.0.0.9:1\nserver \'s#1\' 10.0.0.1:1\nserver s\\ 2 "10.0.0.2:1"\nretries "1',
  );
  expect(Object.keys(toml.backends["a b"].servers)).toEqual(["s#1", "s 2"]);
  expect(left).toEqual(["6: not taken over: a quote does not end"]);
});

test("every line that is not known is named", () => {
  expect(listen("florp 1", "option florp", "timeout florp 1s", "stick on src").left).toEqual([
    "4: not taken over: there is nothing like it here",
    "5: not taken over: there is nothing like it here",
    "6: not taken over: there is nothing like it here",
    expect.stringMatching(/^7: not taken over: there are no tables/),
  ]);
});

test("servers that are resolved have the DNS servers of the resolvers section", () => {
  const { toml, left } = haproxy(
    "resolvers dns\nnameserver a 10.0.0.53:53\nnameserver b udp@10.0.1.53:53\nhold valid 10s\nhold nx 30s\nresolve_retries 3\ntimeout retry 1s",
  );
  expect(toml.resolver).toEqual({
    servers: ["10.0.0.53:53", "10.0.1.53:53"],
    max_ttl_ms: 10_000,
    hold_ms: 30_000,
    retries: 3,
    timeout_ms: 1000,
  });
  expect(left).toEqual([]);
});

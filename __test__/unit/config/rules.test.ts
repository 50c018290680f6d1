import { expect, test } from "vitest";
import { checkConfig } from "../../../ts/config/check.ts";
import { LEAST, LEAST_PACKETS, linesOf } from "./support.ts";

/** A second frontend on the given address, as lines 6 to 8. */
const also = (address: string, extra = "", least = LEAST): string =>
  `${least}[frontends.other]\nlisten_addr = "${address}"\nbackend = "pool"\n${extra}`;

/** Problems without the warnings beside them. */
const errorsOf = async (text: string): Promise<string[]> =>
  (await linesOf(text)).filter((line) => line.includes(": error: "));

test("two frontends on one address are refused", async () => {
  expect(await linesOf(also("127.0.0.1:3000"))).toEqual([
    't.toml:7:15: error: frontends.other.listen_addr: is the address of frontend "web" too (found "127.0.0.1:3000", expected an address and port of its own)',
  ]);
});

test("the same IPv6 address written differently is the same address", async () => {
  const text = also("[0:0:0:0:0:0:0:1]:3000").replace("127.0.0.1:3000", "[::1]:3000");
  expect(await linesOf(text)).toEqual([
    't.toml:7:15: error: frontends.other.listen_addr: is the address of frontend "web" too (found "[0:0:0:0:0:0:0:1]:3000", expected an address and port of its own)',
  ]);
});

test("a wildcard address and an address it covers are refused in proxy mode", async () => {
  expect(await linesOf(also(":3000"))).toEqual([
    't.toml:7:15: error: frontends.other.listen_addr: overlaps with frontend "web": one of them is the wildcard address on the same port (found ":3000", expected an address and port of its own)',
  ]);
});

test("a wildcard address and an address it covers are a warning in the packet modes", async () => {
  const [line] = await linesOf(`mode = "passthrough"\n${also(":3000", "", LEAST_PACKETS)}`);
  expect(line).toContain('t.toml:8:15: warning: frontends.other.listen_addr: overlaps with frontend "web"');
});

test.each(["127.0.0.1:3001", "127.0.0.2:3000", "[::]:3000", "[::1]:3000"])(
  "%s beside 127.0.0.1:3000 is accepted",
  async (address) => {
    expect(await linesOf(also(address))).toEqual([]);
  },
);

test("several frontends may leave the port to the kernel", async () => {
  expect(await linesOf(also("127.0.0.1:0").replace("127.0.0.1:3000", "127.0.0.1:0"))).toEqual([]);
});

test("TCP and UDP on one address do not meet", async () => {
  const text = `mode = "passthrough"\n${also("192.0.2.1:3000", 'protocol = "udp"\n', LEAST_PACKETS)}`;
  expect(await linesOf(text)).toEqual([]);
});

test("the HTTP server cannot have a frontend's address", async () => {
  expect(await linesOf(`${LEAST}[stats]\nport = 3000\n`)).toEqual([
    't.toml:7:8: error: stats.port: is taken by frontend "web" (found 3000, expected a port of its own)',
  ]);
  expect(await linesOf(`${LEAST}[stats]\nport = "3000"\nbind = "::1"\n`)).toEqual([]);
});

test("a frontend that names no backend is told with the nearest name", async () => {
  expect(await linesOf(LEAST.replace('"pool"', '"pol"'))).toEqual([
    't.toml:3:11: error: frontends.web.backend: names no backend (found "pol", expected "pool"); did you mean "pool"?',
  ]);
});

test("a long list of backends is cut in the message", () => {
  const backends = Object.fromEntries(
    Array.from({ length: 20 }, (_, i) => [`b${i}`, { servers: { s: { addr: "10.0.0.1:1" } } }]),
  );
  const result = checkConfig({ frontends: { web: { listen_addr: ":1", backend: "none" } }, backends });
  expect(result).toMatchObject({
    ok: false,
    problems: [{ expected: 'one of "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", 12 more' }],
  });
});

test("a backend that nothing uses is a warning", async () => {
  expect(await linesOf(`${LEAST}[backends.spare.servers.s1]\naddr = "127.0.0.1:1"\n`)).toEqual([
    "t.toml:6:11: warning: backends.spare: is not used by any frontend",
  ]);
});

test.each(["", "servers = {}\n"])("a backend without servers is a warning (%j)", async (servers) => {
  const text = LEAST.replace(/\[backends.*/s, `[backends.pool]\n${servers}`);
  expect(await linesOf(text)).toEqual([
    "t.toml:4:11: warning: backends.pool: has no servers: its frontends refuse every connection",
  ]);
});

test("a pool whose weights are all zero is a warning", async () => {
  expect(await linesOf(`${LEAST}weight = 0\n`)).toEqual([
    "t.toml:4:16: warning: backends.pool.servers: every server has weight 0: its frontends refuse every connection",
  ]);
});

test("two servers on one address are a warning", async () => {
  expect(await linesOf(`${LEAST}[backends.pool.servers.s2]\naddr = "127.0.0.1:8081"\n`)).toEqual([
    't.toml:7:8: warning: backends.pool.servers.s2.addr: is the address of server "s1" too (found "127.0.0.1:8081")',
  ]);
});

test("a frontend that would connect to itself is refused", async () => {
  expect(await linesOf(LEAST.replace(":8081", ":3000"))).toEqual([
    't.toml:5:8: error: backends.pool.servers.s1.addr: is where frontend "web" itself listens: connections would go in a circle (found "127.0.0.1:3000", expected a server elsewhere)',
  ]);
});

const UDP_KEYS = "udp_idle_timeout_ms = 100\nudp_responses = 1\nudp_requests = 2\nmax_sessions = 0\n";

test("UDP is available in proxy mode, with keys of its own that a TCP frontend refuses", async () => {
  const udp = 'protocol = "udp"\n';
  expect(await linesOf(LEAST.replace("[backends", `${udp}${UDP_KEYS}[backends`))).toEqual([]);
  expect(await linesOf(LEAST.replace("[backends", `${UDP_KEYS}[backends`))).toEqual([
    't.toml:4:1: error: frontends.web.udp_idle_timeout_ms: is about sessions of UDP, and this frontend is of TCP (found 100, expected no such key, or protocol = "udp")',
    't.toml:5:1: error: frontends.web.udp_responses: is about sessions of UDP, and this frontend is of TCP (found 1, expected no such key, or protocol = "udp")',
    't.toml:6:1: error: frontends.web.udp_requests: is about sessions of UDP, and this frontend is of TCP (found 2, expected no such key, or protocol = "udp")',
    't.toml:7:1: error: frontends.web.max_sessions: is about sessions of UDP, and this frontend is of TCP (found 0, expected no such key, or protocol = "udp")',
  ]);
});

test("a UDP frontend refuses keys of TCP", async () => {
  const text = LEAST.replace("[backends", 'protocol = "udp"\nmptcp = true\ntcp_fast_open = false\n[backends');
  expect(await linesOf(text)).toEqual([
    't.toml:5:1: error: frontends.web.mptcp: is about TCP, and this frontend is of UDP (found true, expected no such key, or protocol = "tcp")',
  ]);
});

test("the packet modes refuse the keys of UDP sessions and name their own", async () => {
  const text = LEAST.replace("[backends", `protocol = "udp"\n${UDP_KEYS}[backends`)
    .replaceAll("127.0.0.1:3000", "10.0.0.1:3000")
    .replaceAll("127.0.0.1:8081", "10.0.0.2:8081");
  const lines = await linesOf(`mode = "passthrough"\n${text}`);
  expect(lines.filter((line) => line.includes(": error: "))).toEqual([
    "t.toml:6:1: error: frontends.web.udp_idle_timeout_ms: is not available in passthrough mode (found 100, expected passthrough.timeouts.udp_ms and udp_stream_ms)",
    "t.toml:7:1: error: frontends.web.udp_responses: is not available in passthrough mode (found 1, expected no such key)",
    "t.toml:8:1: error: frontends.web.udp_requests: is not available in passthrough mode (found 2, expected no such key)",
    "t.toml:9:1: error: frontends.web.max_sessions: is not available in passthrough mode (found 0, expected no such key)",
  ]);
});

test("a server on the address of a frontend of the other protocol is no circle", async () => {
  const other = '[frontends.dns]\nlisten_addr = "127.0.0.1:8081"\nprotocol = "udp"\nbackend = "dns"\n';
  const dns = '[backends.dns.servers.d1]\naddr = "127.0.0.1:3000"\n';
  expect(await linesOf(`${LEAST}${other}${dns}`)).toEqual([]);
});

test("statistics that other machines can reach are a warning where nobody looks for a token", async () => {
  const text = `${LEAST}[stats]\nport = 7000\nbind = "0.0.0.0"\n`;
  expect(await linesOf(text)).toEqual([
    't.toml:8:8: warning: stats.bind: can be reached from other machines, which needs a token (found "0.0.0.0", expected a loopback address, or a token in stats.token_file or CONVEY_STATS_TOKEN)',
  ]);
  expect(await linesOf(`${text}token_file = "/run/convey/token"\n`)).toEqual([]);
});

test("the keys of the old XDP experiment are accepted with a warning", async () => {
  const text = `${LEAST}[frontends.web.xdp]\nbpf_program_path = "a.o"\nprogsec_name = "xdp"\nxsks_map_name = "m"\n`;
  expect(await linesOf(text)).toEqual([
    "t.toml:6:16: warning: frontends.web.xdp: is deprecated and has no effect: the built-in program is used",
  ]);
});

test("in dsr mode a server on another port than its frontend is refused", async () => {
  expect(await errorsOf(`mode = "dsr"\n${LEAST_PACKETS}`)).toEqual([
    't.toml:6:8: error: backends.pool.servers.s1.addr: has another port than frontend "web", and dsr mode leaves ports as they are (found "198.51.100.1:8081", expected port 3000)',
  ]);
  expect(await errorsOf(`mode = "dsr"\n${LEAST_PACKETS.replace("8081", "3000")}`)).toEqual([]);
});

test("in passthrough mode ports may differ", async () => {
  expect(await linesOf(`mode = "passthrough"\n${LEAST_PACKETS}`)).toEqual([]);
});

test.each(["passthrough", "dsr"])(
  "in %s mode a server of the other address family is refused",
  async (mode) => {
    expect(
      await errorsOf(`mode = "${mode}"\n${LEAST_PACKETS.replace("198.51.100.1:8081", "[2001:db8::1]:3000")}`),
    ).toEqual([
      `t.toml:6:8: error: backends.pool.servers.s1.addr: is not of the address family of frontend "web" (found "[2001:db8::1]:3000", expected an IPv4 address in ${mode} mode)`,
    ]);
  },
);

test("in proxy mode a server of the other address family is accepted", async () => {
  expect(await linesOf(LEAST.replace("127.0.0.1:8081", "[::1]:3000"))).toEqual([]);
});

test("in the packet modes port 0 is refused", async () => {
  expect(await linesOf(`mode = "passthrough"\n${LEAST_PACKETS.replace(":3000", ":0")}`)).toEqual([
    't.toml:3:15: error: frontends.web.listen_addr: has port 0, which only proxy mode can let the kernel choose (found "192.0.2.1:0", expected a port from 1 to 65535)',
  ]);
});

test("keys that only proxy mode reads are warnings in the packet modes", async () => {
  const text = `mode = "passthrough"
${LEAST_PACKETS}max_connections = 9
[backends.pool]
retries = 1
connect_timeout_ms = 1
idle_timeout_ms = 1
max_duration_ms = 1
[limits]
max_connections = 5
[proxy]
workers = 2
`;
  expect(await linesOf(text)).toEqual([
    "t.toml:9:1: warning: backends.pool.retries: has no effect in passthrough mode",
    "t.toml:10:1: warning: backends.pool.connect_timeout_ms: has no effect in passthrough mode",
    "t.toml:11:1: warning: backends.pool.idle_timeout_ms: has no effect in passthrough mode",
    "t.toml:12:1: warning: backends.pool.max_duration_ms: has no effect in passthrough mode",
    "t.toml:16:1: warning: proxy.workers: has no effect in passthrough mode",
  ]);
});

test("limits are looked at in passthrough mode, and a warning in dsr mode", async () => {
  const text = `${LEAST_PACKETS.replace("[frontends.web]", "[frontends.web]\nmax_connections = 3")}max_connections = 9
[limits]
max_connections = 5
`;
  expect(await linesOf(`mode = "passthrough"\n${text}`)).toEqual([]);
  const warnings = (await linesOf(`mode = "dsr"\n${text}`)).filter(
    (line) => line.includes("warning: ") && !line.includes("health checks"),
  );
  expect(warnings).toHaveLength(3);
  for (const line of warnings) expect(line).toContain("max_connections: has no effect in dsr mode");
});

test("keys of the packet modes are no warning in proxy mode, since flags change the mode", async () => {
  expect(await linesOf(`engine = "tc"\n${LEAST}[passthrough]\nworkers = 4\n[dsr]\nmethod = "l2"\n`)).toEqual(
    [],
  );
});

test("shutdown.keep_forwarding is refused with an engine that forwards in the process, and where it is no boolean", async () => {
  const keep = (engine: string, value = "true") =>
    errorsOf(
      `mode = "dsr"\nengine = "${engine}"\n${LEAST_PACKETS.replace("8081", "3000")}[shutdown]\nkeep_forwarding = ${value}\n`,
    );
  expect(await keep("auto")).toEqual([]);
  const [refused] = await keep("af_packet");
  expect(refused).toMatch(
    /error: shutdown\.keep_forwarding: cannot be had with engine "af_packet", which forwards in the process \(found true, expected false, or engine "tc", "xdp" or "auto"\)$/,
  );
  const [wrong] = await keep("auto", "1");
  expect(wrong).toMatch(/shutdown\.keep_forwarding: has the wrong type \(found 1, expected true or false\)$/);
});

test("a loopback listener is refused in the packet modes, which see only what comes over a network", async () => {
  const [line] = await linesOf(`mode = "passthrough"\n${LEAST_PACKETS.replace("192.0.2.1", "127.0.0.9")}`);
  expect(line).toBe(
    't.toml:3:15: error: frontends.web.listen_addr: is a loopback address, for which no packet comes over a network (found "127.0.0.9:3000", expected an address that clients can reach in passthrough mode)',
  );
});

test.each([
  ["224.0.0.1:80", "is a multicast address"],
  ["239.255.255.255:80", "is a multicast address"],
  ["[ff02::1]:80", "is a multicast address"],
  ["255.255.255.255:80", "is the broadcast address"],
  ["[fe80::1]:80", "is a link-local address, which needs a zone"],
])("%s can neither listen nor serve: it %s", async (address, message) => {
  const [listener] = await linesOf(LEAST.replace("127.0.0.1:3000", address));
  expect(listener).toMatch(/^t\.toml:2:15: error: frontends\.web\.listen_addr: /);
  expect(listener).toContain(message);
  const [server] = await linesOf(LEAST.replace("127.0.0.1:8081", address));
  expect(server).toMatch(/^t\.toml:5:8: error: backends\.pool\.servers\.s1\.addr: /);
  expect(server).toContain(message);
});

test("the HTTP server cannot have a multicast address, and on [::] it takes the IPv4 port too", async () => {
  const [line] = await linesOf(`${LEAST}[stats]\nport = 7000\nbind = "224.0.0.1"\n`);
  expect(line).toContain("stats.bind: is a multicast address, where nothing can listen");
  const both = await linesOf(`${LEAST}[stats]\nport = 3000\nbind = "::"\n`);
  expect(both[0]).toContain('stats.port: is taken by frontend "web"');
});

test("an IPv4 address written as IPv6 is that IPv4 address, as a listener, a server and for the HTTP server", () => {
  const result = checkConfig({
    frontends: { web: { listen_addr: "[::ffff:127.0.0.1]:3000", backend: "pool" } },
    backends: { pool: { servers: { s1: { addr: "[::FFFF:7f00:2]:8081" } } } },
    stats: { port: 7000, bind: "::ffff:127.0.0.1" },
  });
  expect(result).toMatchObject({
    ok: true,
    config: {
      frontends: { web: { listen_addr: "127.0.0.1:3000" } },
      backends: { pool: { servers: { s1: { addr: "127.0.0.2:8081" } } } },
      stats: { bind: "127.0.0.1" },
    },
  });
});

test("a key without effect is told once, with how often it stands there", async () => {
  const more = Array.from({ length: 3 }, (_, i) => `[backends.b${i}]\nretries = 1\n`).join("");
  const used = Array.from(
    { length: 3 },
    (_, i) => `[frontends.f${i}]\nlisten_addr = "192.0.2.1:${i + 1}"\nbackend = "b${i}"\n`,
  ).join("");
  const lines = await linesOf(`mode = "passthrough"\n${LEAST_PACKETS}${more}${used}`);
  expect(lines.filter((line) => line.includes("has no effect"))).toEqual([
    "t.toml:8:1: warning: backends.b0.retries: has no effect in passthrough mode, here and at 2 other places",
  ]);
});

test("minimal connection tracking is refused outside of dsr mode, naming the key", async () => {
  expect(
    await errorsOf(`mode = "passthrough"\n${LEAST_PACKETS}[dsr]\nconnection_tracking = "minimal"\n`),
  ).toEqual([
    't.toml:8:23: error: dsr.connection_tracking: is not available in passthrough mode, which needs every flow (found "minimal", expected "full", or mode = "dsr")',
  ]);
});

test("a connection limit at any level is refused with minimal connection tracking, naming both keys", async () => {
  const text = `mode = "dsr"
${LEAST_PACKETS.replace("8081", "3000")}max_connections = 9
[limits]
max_connections = 5
[dsr]
connection_tracking = "minimal"
`;
  const errors = await errorsOf(text.replace('backend = "pool"', 'backend = "pool"\nmax_connections = 3'));
  const why = 'needs every connection counted, which dsr.connection_tracking = "minimal" does not do';
  const tail = 'expected 0, or dsr.connection_tracking = "full")';
  expect(errors.map((line) => line.replace(/^t\.toml:\d+:\d+: error: /, "")).sort()).toEqual([
    `backends.pool.servers.s1.max_connections: ${why} (found 9, ${tail}`,
    `frontends.web.max_connections: ${why} (found 3, ${tail}`,
    `limits.max_connections: ${why} (found 5, ${tail}`,
  ]);
});

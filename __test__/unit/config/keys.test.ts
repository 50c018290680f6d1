import { expect, test } from "vitest";
import { loadConfigText } from "../../../ts/config/load.ts";
import { lower } from "../../../ts/config/lower.ts";
import { LEAST, linesOf } from "./support.ts";

const ADDRESS = '"ip:port", such as "127.0.0.1:3000", "[::1]:3000" or ":3000"';
const SERVER_ADDRESS =
  '"ip:port", such as "10.0.0.1:8080" or "[2001:db8::1]:8080", "name:port", an SRV name or "unix:/path"';

test("the least configuration has no problems", async () => {
  expect(await linesOf(LEAST)).toEqual([]);
});

test("an unknown key is told at the key, with the nearest one, and that one is not missing as well", async () => {
  expect(await linesOf(LEAST.replace("listen_addr", "  listne_addr"))).toEqual([
    't.toml:2:3: error: frontends.web.listne_addr: unknown key; did you mean "listen_addr"?',
  ]);
});

test("each of several unknown keys is a problem of its own", async () => {
  expect(await linesOf(`bakends = 1\nzzz = 2\n${LEAST}`)).toEqual([
    't.toml:1:1: error: bakends: unknown key; did you mean "backends"?',
    "t.toml:2:1: error: zzz: unknown key",
  ]);
});

test("a key in the wrong table is told where it belongs", async () => {
  expect(await linesOf(`${LEAST}[backends.pool]\nweight = 3\n`)).toEqual([
    "t.toml:7:1: error: backends.pool.weight: unknown key here; it belongs at backends.<name>.servers.<name>.weight",
  ]);
});

test("a dash for an underscore is a near miss", async () => {
  expect(await linesOf(`${LEAST}[backends.pool]\nHealth-Check-Interval = 3\n`)).toEqual([
    't.toml:7:1: error: backends.pool.Health-Check-Interval: unknown key; did you mean "health_check_interval"?',
  ]);
});

test("a missing key is told at its table, however the table is written", async () => {
  expect(
    await linesOf('[frontends]\nweb = { backend = "pool" }\n[backends.pool.servers]\ns1 = {}\n'),
  ).toEqual([
    `t.toml:2:7: error: frontends.web.listen_addr: is missing (expected ${ADDRESS})`,
    `t.toml:4:6: error: backends.pool.servers.s1.addr: is missing (expected ${SERVER_ADDRESS})`,
  ]);
  expect(
    await linesOf('[frontends]\nweb.backend = "pool"\n[backends.pool.servers]\n  s1.weight = 2\n'),
  ).toEqual([
    `t.toml:2:1: error: frontends.web.listen_addr: is missing (expected ${ADDRESS})`,
    `t.toml:4:3: error: backends.pool.servers.s1.addr: is missing (expected ${SERVER_ADDRESS})`,
  ]);
});

test("missing top-level tables are told at the beginning of the file", async () => {
  expect(await linesOf('# nothing else\n\nmode = "proxy"\n')).toEqual([
    "t.toml:1:1: error: frontends: is missing (expected a table)",
    "t.toml:1:1: error: backends: is missing (expected a table)",
  ]);
});

test("a file with no frontend is refused", async () => {
  expect(await linesOf(LEAST.replace(/\[frontends[^[]*/, "[frontends]\n"))).toEqual([
    "t.toml:1:2: error: frontends: has no frontend (expected at least one [frontends.<name>])",
    "t.toml:2:11: warning: backends.pool: is not used by any frontend",
  ]);
});

test.each([
  ['"7"', 'has the wrong type (found "7", expected an integer from 0 to 65535)'],
  ["65536", "is out of range (found 65536, expected an integer from 0 to 65535)"],
  ["-1", "is out of range (found -1, expected an integer from 0 to 65535)"],
  ["1.5", "is not an integer (found 1.5, expected an integer from 0 to 65535)"],
  ["nan", "has the wrong type (found NaN, expected an integer from 0 to 65535)"],
  ["true", "has the wrong type (found true, expected an integer from 0 to 65535)"],
  ["[1]", "has the wrong type (found an array, expected an integer from 0 to 65535)"],
  ["{ a = 1 }", "has the wrong type (found a table, expected an integer from 0 to 65535)"],
  ["2021-03-04", "has the wrong type (found a date or time, expected an integer from 0 to 65535)"],
])("a weight of %s is told at the value", async (value, message) => {
  expect(await linesOf(`${LEAST}weight = ${value}\n`)).toEqual([
    `t.toml:6:10: error: backends.pool.servers.s1.weight: ${message}`,
  ]);
});

test.each(["0", "1", "65535", "6_5", "0x10"])("a weight of %s is accepted", async (value) => {
  expect(
    await linesOf(`${LEAST}[backends.pool.servers.s2]\naddr = "127.0.0.1:1"\nweight = ${value}\n`),
  ).toEqual([]);
});

test("a value that is none of a few words is told with the nearest", async () => {
  expect(await linesOf(`mode = "pasthrough"\n${LEAST}`)).toEqual([
    't.toml:1:8: error: mode: is not a value it can have (found "pasthrough", expected one of "proxy", "passthrough", "dsr"); did you mean "passthrough"?',
  ]);
  expect(await linesOf(`engine = "dpdk"\n${LEAST}`)).toEqual([
    't.toml:1:10: error: engine: is not a value it can have (found "dpdk", expected one of "auto", "tc", "xdp", "af_xdp", "af_packet")',
  ]);
});

test("a table where a value belongs, and a value where a table belongs, are told", async () => {
  expect(await linesOf(`${LEAST}[mode]\n`)).toEqual([
    't.toml:6:1: error: mode: has the wrong type (found a table, expected one of "proxy", "passthrough", "dsr")',
  ]);
  expect(await linesOf(`stats = 7000\n${LEAST}`)).toEqual([
    "t.toml:1:9: error: stats: has the wrong type (found 7000, expected a table)",
  ]);
  expect(await linesOf(`proxy = 2021-03-04\n${LEAST}`)).toEqual([
    "t.toml:1:9: error: proxy: has the wrong type (found a date or time, expected a table)",
  ]);
  expect(await linesOf(`${LEAST}[[stats]]\nport = 1\n`)).toEqual([
    "t.toml:6:1: error: stats: has the wrong type (found an array, expected a table)",
  ]);
  expect(await linesOf(`${LEAST}[frontends.other]\nlisten_addr = ":1"\nbackend = 7\n`)).toEqual([
    "t.toml:8:11: error: frontends.other.backend: has the wrong type (found 7, expected the name of a backend)",
  ]);
});

test.each([
  ["localhost:80", "has a name, and names are not resolved; write the IP address"],
  ["10.0.0.1", "has no port"],
  ["10.0.0.1:", "has no port"],
  ["", "has no port"],
  ["10.0.0.1:http", "has a port that is not a number from 0 to 65535"],
  ["10.0.0.1:65536", "has a port that is not a number from 0 to 65535"],
  ["10.0.0.1:-1", "has a port that is not a number from 0 to 65535"],
  ["10.0.0.1: 80", "has a port that is not a number from 0 to 65535"],
  ["10.0.0.256:80", "is not an IP address and a port"],
  ["10.0.0.010:80", "is not an IP address and a port"],
  ["::1", "is IPv6 without brackets; write [address]:port"],
  ["fe80::1:2:80", "is IPv6 without brackets; write [address]:port"],
  ["[::1]", "has no port"],
  ["[10.0.0.1]:80", "has no IPv6 address between the brackets"],
  ["[fe80::1%eth0]:80", "has a zone, which is not supported"],
])("listen_addr = %j is refused", async (address, message) => {
  expect(await linesOf(LEAST.replace("127.0.0.1:3000", address))).toEqual([
    `t.toml:2:15: error: frontends.web.listen_addr: ${message} (found "${address}", expected ${ADDRESS})`,
  ]);
});

test.each([
  [":80", "has no address before the port"],
  ["127.0.0.1:0", "has port 0, where no server can be"],
  ["0.0.0.0:80", "is the wildcard address, where no server can be"],
  ["[::]:80", "is the wildcard address, where no server can be"],
])("a server addr of %j is refused", async (address, message) => {
  expect(await linesOf(LEAST.replace("127.0.0.1:8081", address))).toEqual([
    `t.toml:5:8: error: backends.pool.servers.s1.addr: ${message} (found "${address}", expected ${SERVER_ADDRESS})`,
  ]);
});

test.each([":80", "127.0.0.1:0", "[::]:80", "[::1]:0", "0.0.0.0:65535"])(
  "listen_addr = %j is accepted",
  async (address) => {
    expect(await linesOf(LEAST.replace("127.0.0.1:3000", address))).toEqual([]);
  },
);

test.each(["7000", '"7000"', "0", '"0"'])("stats.port = %s is accepted", async (port) => {
  expect(await linesOf(`${LEAST}[stats]\nport = ${port}\n`)).toEqual([]);
});

test.each([
  ["70000", "is out of range", "70000"],
  ['"70000"', "is not a port", '"70000"'],
  ['"http"', "is not a value it can have", '"http"'],
  ["1.5", "is not a value it can have", "1.5"],
  ["true", "has the wrong type", "true"],
])("stats.port = %s is refused", async (port, message, found) => {
  expect(await linesOf(`${LEAST}[stats]\nport = ${port}\n`)).toEqual([
    `t.toml:7:8: error: stats.port: ${message} (found ${found}, expected a port from 0 to 65535, as a string or an integer)`,
  ]);
});

test("stats.bind takes addresses, not names", async () => {
  expect(await linesOf(`${LEAST}[stats]\nport = 1\nbind = "localhost"\n`)).toEqual([
    't.toml:8:8: error: stats.bind: is not an IP address (found "localhost", expected an IP address, such as "127.0.0.1" or "::1")',
  ]);
});

test.each([
  ["33768", "is not a range of ports"],
  ["80-90", "starts below 1024, among the ports of services"],
  ["5000-4000", "ends before it starts"],
  ["5000-70000", "is not a range of ports"],
])("port_range = %j is refused", async (range, message) => {
  expect(await linesOf(`${LEAST}[passthrough]\nport_range = "${range}"\n`)).toEqual([
    `t.toml:7:14: error: passthrough.port_range: ${message} (found "${range}", expected two ports from 1024 to 65535, such as "33768-61000")`,
  ]);
});

test.each([
  [
    '["10.0.0.2", "10.0.0"]',
    ".1",
    "is not an IP address",
    '"10.0.0"',
    'an IP address, such as "127.0.0.1" or "::1"',
  ],
  [
    '["10.0.0.2", "10.0.0.2"]',
    "",
    "names 10.0.0.2 twice",
    "an array",
    'at most 64 different IP addresses, such as ["10.0.0.2", "10.0.0.3"]',
  ],
  [
    '"10.0.0.2"',
    "",
    "has the wrong type",
    '"10.0.0.2"',
    'at most 64 different IP addresses, such as ["10.0.0.2", "10.0.0.3"]',
  ],
])("nat_addresses = %s is refused", async (list, at, message, found, expected) => {
  const [line] = await linesOf(`${LEAST}[passthrough]\nnat_addresses = ${list}\n`);
  expect(line).toContain(
    `error: passthrough.nat_addresses${at}: ${message} (found ${found}, expected ${expected})`,
  );
});

test("nat_addresses are handed over as they stand", async () => {
  const text = `${LEAST}[passthrough]\nnat_addresses = ["10.0.0.2", "2001:db8::2"]\n`;
  const result = await loadConfigText(text);
  if (!result.ok) throw new Error("refused");
  expect(lower(result.config).packet.natAddresses).toEqual(["10.0.0.2", "2001:db8::2"]);
});

test.each([
  [
    '["eth0", "a b"]',
    "interfaces.1",
    "is not a value it can have",
    '"a b"',
    'the name of an interface, such as "eth0"',
  ],
  ['["eth0", 3]', "interfaces.1", "has the wrong type", "3", 'the name of an interface, such as "eth0"'],
  [
    '"eth0"',
    "interfaces",
    "has the wrong type",
    '"eth0"',
    'an array of names of interfaces, such as ["eth0", "eth1"]',
  ],
])("interfaces = %s is refused", async (value, path, message, found, expected) => {
  expect(await linesOf(`interfaces = ${value}\n${LEAST}`)).toEqual([
    `t.toml:1:${path === "interfaces.1" ? 23 : 14}: error: ${path}: ${message} (found ${found}, expected ${expected})`,
  ]);
});

test("a connection tracker without room is refused", async () => {
  expect(await linesOf(`${LEAST}[passthrough]\nconnection_tracker_capacity = 0\n`)).toEqual([
    "t.toml:7:31: error: passthrough.connection_tracker_capacity: is out of range (found 0, expected an integer from 1 to 268435456)",
  ]);
});

test.each(["syn_ms", "established_ms", "fin_ms", "dsr_fin_ms", "closed_ms", "udp_ms", "udp_stream_ms"])(
  "a flow's lifetime %s is an integer from 100 ms to a day",
  async (key) => {
    const lines = (value: string) => linesOf(`${LEAST}[passthrough.timeouts]\n${key} = ${value}\n`);
    for (const value of ["100", "86_400_000"]) expect(await lines(value)).toEqual([]);
    for (const value of ["0", "99", "86400001"]) {
      expect(await lines(value)).toEqual([
        `t.toml:7:${key.length + 4}: error: passthrough.timeouts.${key}: is out of range (found ${value}, expected an integer from 100 to 86400000)`,
      ]);
    }
    expect((await lines("1.5")).join()).toContain(`error: passthrough.timeouts.${key}: `);
  },
);

test("an unknown lifetime is refused, and the key that was meant is named", async () => {
  const [line] = await linesOf(`${LEAST}[passthrough.timeouts]\nclose_ms = 1000\n`);
  expect(line).toContain("t.toml:7:1: error: passthrough.timeouts.close_ms: ");
  expect(line).toContain("closed_ms");
});

test.each([
  ['""', "a name cannot be empty"],
  ['"a/b"', 'a name cannot contain "/", which separates backend from server in commands'],
  ['"a\\nb"', "a name cannot contain control characters"],
  ['"."', 'a name cannot be "." or "..", which addresses of the HTTP server cannot name'],
  ['".."', 'a name cannot be "." or "..", which addresses of the HTTP server cannot name'],
])("a server named %s is refused", async (key, message) => {
  expect(await linesOf(`${LEAST}[backends.pool.servers.${key}]\naddr = "127.0.0.1:1"\n`)).toEqual([
    `t.toml:6:24: error: backends.pool.servers.${key}: ${message} (found ${key})`,
  ]);
});

test("a name longer than 255 characters is refused, and shown cut", async () => {
  const key = "x".repeat(100_000);
  expect(await linesOf(`${LEAST}[backends.pool.servers.${key}]\naddr = "127.0.0.1:1"\n`)).toEqual([
    `t.toml:6:24: error: backends.pool.servers."${"x".repeat(252)}...": a name has at most 255 characters (found "${"x".repeat(77)}...")`,
  ]);
});

test("names that JavaScript gives a meaning are names like others, save one that is refused", async () => {
  expect(
    await linesOf(
      `${LEAST}[backends.pool.servers]\nconstructor.addr = "127.0.0.1:1"\ntoString.addr = "127.0.0.1:2"\n`,
    ),
  ).toEqual([]);
  expect(await linesOf(`${LEAST}[backends.pool.servers.__proto__]\naddr = "127.0.0.1:1"\n`)).toEqual([
    "t.toml:6:24: error: backends.pool.servers.__proto__: this name is reserved",
  ]);
  expect(await linesOf(`${LEAST}[frontends.other]\nlisten_addr = ":1"\nbackend = "toString"\n`)).toEqual([
    't.toml:8:11: error: frontends.other.backend: names no backend (found "toString", expected "pool")',
  ]);
});

test("all problems come at once, in the order of the file, warnings last", async () => {
  const text = `mod = "proxy"
[frontends.a]
listen_addr = "web:80"
backend = "pol"
[frontends.b]
listen_addr = "127.0.0.1:3000"
backend = "pool"
[frontends.c]
listen_addr = "127.0.0.1:3000"
backend = "pool"
[backends.pool]
retries = -1
[backends.pool.servers]
`;
  expect((await linesOf(text)).map((line) => line.split(" (")[0])).toEqual([
    't.toml:1:1: error: mod: unknown key; did you mean "mode"?',
    "t.toml:3:15: error: frontends.a.listen_addr: has a name, and names are not resolved; write the IP address",
    "t.toml:4:11: error: frontends.a.backend: names no backend",
    't.toml:9:15: error: frontends.c.listen_addr: is the address of frontend "b" too',
    "t.toml:12:11: error: backends.pool.retries: is out of range",
    "t.toml:11:11: warning: backends.pool: has no servers: its frontends refuse every connection",
  ]);
});

test("columns count in CRLF files, after a byte order mark and after wide characters as editors do", async () => {
  const text = LEAST.replace("127.0.0.1:3000", "x:1").replaceAll("\n", "\r\n");
  expect((await linesOf(`\ufeff${text}`)).map((line) => line.split(" error")[0])).toEqual(["t.toml:2:15:"]);
  const inline = LEAST.replace(
    /\[frontends[^[]*/,
    'frontends."é𝄞" = { listen_addr = "x:1", backend = "pool" }\n',
  );
  expect((await linesOf(inline)).map((line) => line.split(" error")[0])).toEqual(["t.toml:1:35:"]);
});

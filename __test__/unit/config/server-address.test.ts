/** Where a server is: what is read, what is refused, and what the rules say of names and sockets. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { loadConfigText } from "../../../ts/config/load.ts";
import { formatServerAddress, parseServerAddress } from "../../../ts/config/server-address.ts";

test.each([
  ["10.0.0.1:80", "10.0.0.1:80", "ip"],
  ["[2001:DB8::1]:80", "[2001:db8::1]:80", "ip"],
  ["App.Internal.:8080", "app.internal:8080", "name"],
  ["localhost:80", "localhost:80", "name"],
  ["my_app-1:80", "my_app-1:80", "name"],
  ["_http._tcp.App.internal.", "_http._tcp.app.internal", "srv"],
  ["unix:/run/app.sock", "unix:/run/app.sock", "unix"],
  ["unix:@app", "unix:@app", "unix"],
])("%s is a server", (text, written, kind) => {
  const parsed = parseServerAddress(text);
  expect(parsed.ok && [formatServerAddress(parsed.value), parsed.value.kind]).toEqual([written, kind]);
});

test.each([
  ["", "has no port"],
  ["app.internal", "has no port"],
  ["app.internal:", "has no port"],
  ["app.internal:0", "has port 0, where no server can be"],
  ["app.internal:http", "has a port that is not a number from 0 to 65535"],
  ["a b:80", "has no host name before the port"],
  ["-a:80", "has no host name before the port"],
  ["a..b:80", "has no host name before the port"],
  ["bücher.de:80", "has no host name before the port"],
  [`${"a".repeat(64)}:80`, "has no host name before the port"],
  ["10.0.0.256:80", "is not an IP address and a port"],
  ["1.2.3.4.5:80", "is not an IP address and a port"],
  ["app.10:80", "has no host name before the port"],
  ["_http._tcp.app:80", "is an SRV name with a port, and its records tell the ports"],
  ["_http.app", "is not the name of an SRV record, such as _http._tcp.app.internal"],
  ["unix:", "has no absolute path of a socket, nor @ and a name, after unix:"],
  ["unix:@", "has no absolute path of a socket, nor @ and a name, after unix:"],
  ["unix:app.sock", "has no absolute path of a socket, nor @ and a name, after unix:"],
  ["unix:/run/", "has no absolute path of a socket, nor @ and a name, after unix:"],
  ["unix:/run/\u0000", "has control characters in the path of its socket"],
  [`unix:/${"a".repeat(107)}`, "has a path of 108 bytes, and the kernel takes 107"],
])("%j is none", (text, message) => {
  expect(parseServerAddress(text)).toEqual({ ok: false, message });
});

test("whatever is written, what is read is read the same again", () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.string(), fc.stringMatching(/^(unix:|_|\[)?[a-z0-9._:@/[\]-]{0,40}$/)),
      (text) => {
        const parsed = parseServerAddress(text);
        if (parsed.ok) expect(parseServerAddress(formatServerAddress(parsed.value))).toEqual(parsed);
      },
    ),
    { numRuns: 3000 },
  );
});

const said = async (mode: string, servers: string, more = ""): Promise<string[]> => {
  const text = `mode = "${mode}"\n[frontends.web]\nlisten_addr = "192.0.2.1:80"\nbackend = "pool"\n[backends.pool]\ncheck = "address"\n[backends.pool.servers]\n${servers}\n${more}`;
  const loaded = await loadConfigText(text);
  return (loaded.ok ? loaded.warnings : loaded.problems).map(
    ({ severity, path, message }) => `${severity} ${path} ${message}`,
  );
};

test("a Unix socket is refused where packets are forwarded, and taken in proxy mode", async () => {
  const server = 's = { addr = "unix:/run/app.sock" }';
  expect(await said("proxy", server)).toEqual([]);
  for (const mode of ["passthrough", "dsr"]) {
    expect(await said(mode, server)).toEqual([
      `error backends.pool.servers.s.addr is a Unix socket, which no packet can be sent to: ${mode} mode forwards packets`,
    ]);
  }
});

test("a Unix socket and ejections are refused in proxy mode where a frontend of the backend is of UDP", async () => {
  const udp = '[frontends.dns]\nlisten_addr = "192.0.2.1:53"\nprotocol = "udp"\nbackend = "pool"';
  expect(await said("proxy", 's = { addr = "unix:/run/app.sock" }', udp)).toEqual([
    'error backends.pool.servers.s.addr is a Unix socket, which takes connections, and frontend "dns" of this backend is of UDP',
  ]);
  const ejects = `[backends.pool]\neject_after = 3\nservers.s = { addr = "127.0.0.1:53" }\n${udp}`;
  const loaded = await loadConfigText(ejects);
  expect(loaded.ok ? [] : loaded.problems.map(({ path }) => path)).toEqual(["backends.pool.eject_after"]);
});

test("names are taken in every mode; in dsr mode with the frontend's port alone", async () => {
  const server = 's = { addr = "app.internal:80" }';
  for (const mode of ["proxy", "passthrough", "dsr"]) expect(await said(mode, server)).toEqual([]);
  expect(await said("dsr", 's = { addr = "app.internal:81" }')).toEqual([
    'error backends.pool.servers.s.addr has another port than frontend "web", and dsr mode leaves ports as they are',
  ]);
});

test("resolve without a name, a name that an address may get, and bounds that exclude each other are told", async () => {
  expect(await said("proxy", 's = { addr = "10.0.0.1:80", resolve = "all" }')).toEqual([
    "warning backends.pool.servers.s.resolve has no effect: the address is no name",
  ]);
  expect(await said("proxy", 's = { addr = "app:80" }\n"s@10.0.0.1:80" = { addr = "10.0.0.1:80" }')).toEqual([
    'error backends.pool.servers."s@10.0.0.1:80" is a name that an address of server "s" may get',
  ]);
  expect(await said("proxy", 's = { addr = "app:80" }', "[resolver]\nmin_ttl_ms = 70000")).toEqual([
    "error resolver.min_ttl_ms min_ttl_ms is above max_ttl_ms",
  ]);
  expect(
    await said("proxy", 's = { addr = "app:80" }', '[resolver]\nservers = ["10.0.0.53", "[::1]:5353"]'),
  ).toEqual([]);
  expect(await said("proxy", 's = { addr = "app:80" }', '[resolver]\nservers = ["ns.internal"]')).toEqual([
    "error resolver.servers.0 has no port",
  ]);
});
